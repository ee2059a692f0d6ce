#include "weft/methods/passes/gather_pass.h"

#include <vector>

#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/pieces.h"

namespace weft::methods {
namespace {

// Rows that go to a rank, or rows that come from it: the two may be of different pieces.
struct Trade {
  int peer = 0;
  Set to_peer, from_peer;
};

// What is fetched at once.
struct Piece {
  std::vector<Trade> trades;
  Set rows;  // all that I fetch
  Set heads, kv_heads;
};

std::vector<Piece> cut(const Problem& problem, const GatherPieces& how, int rank, Builder& b) {
  const int ranks = problem.ranks();
  std::vector<Piece> stages(static_cast<size_t>(how.stages * how.chunks));
  std::vector<IntervalSet> rows(stages.size());
  // Both ends count the distance from the owner to the rank that fetches.
  const auto stage_of = [&](int owner, int fetcher, size_t chunk) {
    const int stage = ((fetcher - owner + ranks) % ranks - 1) * how.stages / (ranks - 1);
    return static_cast<size_t>(stage * how.chunks) + chunk;
  };
  const int64_t unit = problem.unit_of_cuts();
  const std::vector<IntervalSet> mine = cut_in_pieces(problem.key_layout.shard(rank), how.chunks, unit);
  // Most peers have nothing to do with this rank where windows or documents are short.
  const Layout &queries = problem.query_layout, &keys = problem.key_layout;
  const Set seen = b.keys_needed(queries.shard(rank), Range{0, keys.tokens()});
  const Set seeing = b.queries_needed(Range{0, queries.tokens()}, keys.shard(rank));
  for (int peer = 0; peer < ranks; ++peer) {
    if (peer == rank) continue;
    const IntervalSet see_mine = intersect(seeing.intervals(), queries.shard(peer));
    if (see_mine.empty() && !seen.intervals().intersects(keys.shard(peer))) continue;
    const std::vector<IntervalSet> theirs = cut_in_pieces(problem.key_layout.shard(peer), how.chunks, unit);
    for (size_t chunk = 0; chunk < mine.size(); ++chunk) {
      const Set taken = b.keys_needed(see_mine, mine[chunk]);
      const Set fetched = b.set(intersect(seen.intervals(), theirs[chunk]));
      if (!taken.empty()) stages[stage_of(rank, peer, chunk)].trades.push_back({peer, taken, {}});
      if (fetched.empty()) continue;
      stages[stage_of(peer, rank, chunk)].trades.push_back({peer, {}, fetched});
      rows[stage_of(peer, rank, chunk)].unite(fetched.intervals());
    }
  }
  std::vector<Piece> pieces;
  const int64_t group = how.kv_heads == 0 ? problem.kv_heads : how.kv_heads;
  for (int64_t first = 0; first < problem.kv_heads; first += group) {
    const Range kv_heads{first, std::min(first + group, problem.kv_heads)};
    for (size_t stage = 0; stage < stages.size(); ++stage) {
      Piece piece = stages[stage];
      piece.rows = b.set(rows[stage]);
      piece.kv_heads = b.set(kv_heads);
      piece.heads = b.set(Range{kv_heads.begin * problem.group(), kv_heads.end * problem.group()});
      pieces.push_back(std::move(piece));
    }
  }
  return pieces;
}

// Starts to fetch a piece. {} when there is none.
Value fetch(Builder& b, const Value& kv, const std::vector<Piece>& pieces, size_t index) {
  if (index >= pieces.size()) return {};
  const Piece& piece = pieces[index];
  Value fetched = b.whole(Field::k | Field::v, piece.rows, piece.kv_heads);
  Exchange x = b.exchange(0);
  for (const Trade& trade : piece.trades) {
    x.send(trade.peer, kv.at(trade.to_peer, piece.kv_heads));
    x.receive(trade.peer, fetched[trade.from_peer]);
  }
  x.issue();
  return fetched;
}

// Sends the gradients of a piece home and adds those that come.
void return_sums(Builder& b, const Value& sums, const Value& home, const Piece& piece) {
  Exchange x = b.exchange(1);
  for (const Trade& trade : piece.trades) {
    x.send(trade.peer, sums[trade.from_peer]);
    x.receive(trade.peer, home.at(trade.to_peer, piece.kv_heads), Combine::add);
  }
  x.issue();
}

}  // namespace

Steps write_gather(std::shared_ptr<const Problem> problem, GatherPieces how, int rank, Builder& b) {
  const std::vector<Piece> pieces = cut(*problem, how, rank, b);
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q);
  Value next = fetch(b, kv, pieces, 0);
  std::vector<Value> kept;
  b.attend(q, kv, acc);
  co_yield Step{};
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Value fetched = std::move(next);
    next = fetch(b, kv, pieces, i + 1);
    b.attend(q.at(q.tokens(), pieces[i].heads), fetched, acc.at(q.tokens(), pieces[i].heads));
    if (how.keep && problem->backward) kept.push_back(fetched);
    co_yield Step{};
  }
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  if (!problem->backward) co_return;

  BackwardInputs in(b);
  const auto get = [&](size_t i) {
    return how.keep && i < kept.size() ? std::move(kept[i]) : fetch(b, in.kv, pieces, i);
  };
  next = get(0);
  in.prepare();
  Value dkv = in.key_sums();
  b.attend_backward(in.q, in.kv, in.bundle(), in.dq, dkv);
  co_yield Step{};
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    const auto of_heads = [&](const Value& value, Fields fields) {
      return value.at(in.q.tokens(), piece.heads).only(fields);
    };
    const Value fetched = std::move(next);
    next = get(i + 1);
    Value sums = b.sums(Field::dk | Field::dv, piece.rows, piece.kv_heads);
    b.attend_backward(of_heads(in.q, Field::q), fetched,
                      {of_heads(in.dout, Field::dout), of_heads(in.out, Field::lse), of_heads(in.delta, Field::delta)},
                      of_heads(in.dq, Field::dq), sums);
    if (i > 0) b.wait(1);  // those before had this piece's compute to travel; else all pieces' sums are held to the end
    return_sums(b, sums, dkv, piece);
    if (i + 1 < pieces.size()) co_yield Step{};
  }
  b.result(b.finish(in.dq));  // while the last sums travel
  co_yield Step{};
  b.result(b.finish(dkv));
}

}  // namespace weft::methods
