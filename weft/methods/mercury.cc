// Mercury's team split: a team of ranks shares its queries and spreads the keys, which ring between teams.
//
//   6 ranks, teams of 2 (rank = 2 team + member)       works on, step by step, with the queries of its team
//     team 0:  0  1        rank 0: keys of 0, 2, 4     rank 1: keys of 1, 3, 5
//     team 1:  2  3        rank 2: keys of 2, 4, 0     rank 3: keys of 3, 5, 1
//     team 2:  4  5        rank 4: keys of 4, 0, 2     rank 5: keys of 5, 1, 3
//
// Members of a team send each other their queries while each attends to its own; equal members of all teams are a ring
// (ring_pass.h); then every partial result goes to the member whose queries it is of and merges there. A point between
// ring (teams of 1) and a single team that spreads all keys, which Mercury's search over loop transformations found (Guan et
// al., SOSP 2025): the loop over keys split in two, one part parallel with an all-reduce of partial results, one shifted.
// There queries are replicated in a team, masks are full and shards equal. With n teams of m and T tokens a rank, rows
// sent per rank under a full mask: forward (m-1) T of q and of (out, lse) and (n-1) T of (k, v); backward (m-1) T of (q,
// dout, lse, delta) and of dq, (n-2) T of (k, v) and (n-1) T of (dk, dv).
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/degrees.h"
#include "weft/methods/passes/ring_pass.h"
#include "weft/methods/passes/travelling.h"

namespace weft::methods {
namespace {

// Who is in which team, the same on every rank.
struct Teams {
  int size = 1, count = 1;
  bool adjacent = true;                            // members are consecutive ranks, else every count-th
  std::vector<std::shared_ptr<const Ring>> rings;  // by member: its keys, and the queries of whole teams
  std::vector<IntervalSet> keys;                   // by member: all that its ring has

  int rank(int team, int member) const { return adjacent ? team * size + member : member * count + team; }
  int team_of(int rank) const { return adjacent ? rank / size : rank % count; }
  int member_of(int rank) const { return adjacent ? rank % size : rank / count; }
};

std::shared_ptr<const Teams> make_teams(const Problem& problem, int size, bool adjacent, int direction) {
  auto teams = std::make_shared<Teams>();
  teams->size = size, teams->count = problem.ranks() / size, teams->adjacent = adjacent;
  std::vector<IntervalSet> queries(static_cast<size_t>(teams->count));
  for (int rank = 0; rank < problem.ranks(); ++rank)
    queries[static_cast<size_t>(teams->team_of(rank))].unite(problem.query_layout.shard(rank));
  for (int member = 0; member < size; ++member) {
    auto ring = std::make_shared<Ring>();
    std::vector<IntervalSet> keys;
    for (int team = 0; team < teams->count; ++team) {
      ring->ranks.push_back(teams->rank(team, member));
      keys.push_back(problem.key_layout.shard(ring->ranks.back()));
    }
    ring->queries = ConsecutiveUnions(queries);
    ring->keys = ConsecutiveUnions(std::move(keys));
    ring->direction = direction;
    ring->prepare(problem.pairs);
    teams->keys.push_back(ring->keys.of(0, teams->count));
    teams->rings.push_back(std::move(ring));
  }
  return teams;
}

// The queries of a rank's team in one phase, their sums, and how both get there and back.
class TeamQueries {
 public:
  TeamQueries(Builder& builder, std::shared_ptr<const Teams> teams, Travelling moving)
      : b_(builder), teams_(std::move(teams)), moving_(std::move(moving)) {}

  // Fetches what the other members have, and makes sums for it.
  void gather() {
    Exchange x = b_.exchange(kLane);
    for_each_other([&](int member, int rank) {
      send_rows(x, rank, moving_.own, needed(b_.rank(), member));
      const Set rows = needed(rank, teams_->member_of(b_.rank()));
      fetched_.push_back(moving_.receive(b_, x, rank, rows, b_.all_heads()));
      sums_.push_back(b_.sums(moving_.sums, rows, b_.all_heads()));
      append(slices_, fetched_.back().slices);
      targets_.push_back(sums_.back());
    });
    x.issue();
  }
  // Adds the own queries to the fetched ones.
  void join_own() {
    append(slices_, moving_.own);
    targets_.push_back(moving_.home);
  }

  // The slices of these fields, and the sums of all queries.
  std::vector<Slice> slices(Fields fields) const {
    std::vector<Slice> some;
    for (const Slice& slice : slices_) {
      if (fields.includes(slice.fields)) some.push_back(slice);
    }
    return some;
  }
  const std::vector<Slice>& sums() const { return targets_; }

  // Sends the sums home, where they are combined.
  void return_sums() {
    Exchange x = b_.exchange(kLane);
    size_t next = 0;
    for_each_other([&](int member, int rank) {
      x.send(rank, sums_[next++]);
      const Set rows = needed(b_.rank(), member);
      if (rows.empty()) return;
      x.receive(rank, moving_.home[rows], moving_.sums.has(Field::out) ? Combine::merge : Combine::add);
    });
    x.issue();
    fetched_.clear(), sums_.clear();
  }

 private:
  static constexpr int kLane = 2;  // beside the two of the ring

  static void append(std::vector<Slice>& all, const std::vector<Slice>& more) {
    all.insert(all.end(), more.begin(), more.end());
  }
  template <typename F>
  void for_each_other(F&& f) const {
    for (int member = 0; member < teams_->size; ++member) {
      const int rank = teams_->rank(teams_->team_of(b_.rank()), member);
      if (rank != b_.rank()) f(member, rank);
    }
  }
  // Queries of a rank of the team that this member of it works on.
  Set needed(int owner, int member) {
    return b_.queries_needed(b_.problem().query_layout.shard(owner), teams_->keys[static_cast<size_t>(member)]);
  }

  Builder& b_;
  std::shared_ptr<const Teams> teams_;
  Travelling moving_;
  std::vector<Held> fetched_;
  std::vector<Value> sums_;
  std::vector<Slice> slices_, targets_;
};

Steps write(std::shared_ptr<const Teams> teams, int rank, Builder& b) {
  RingPass pass(b, teams->rings[static_cast<size_t>(teams->member_of(rank))], teams->team_of(rank), b.all_kv_heads());
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q), current = kv;
  {
    TeamQueries queries(b, teams, moving_queries(q, acc));
    queries.gather();
    b.attend(q, kv, acc);
    for (int t = 0; t < pass.steps(); ++t) {
      pass.forward(t, queries.slices(Field::q), queries.sums(), current);
      if (t == 0) queries.join_own();
      co_yield Step{};
    }
    queries.return_sums();
    co_yield Step{};
  }
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  if (!b.problem().backward) co_return;

  if (pass.steps() == 1) current.reset();  // it is the own block, which the caller gives again
  BackwardInputs in(b);
  in.prepare();
  if (pass.steps() == 1) current = in.kv;
  Value dkv;
  {
    TeamQueries queries(b, teams, moving_queries(in.q, in.bundle(), in.dq));
    queries.gather();
    dkv = b.sums(Field::dk | Field::dv, current.tokens(), b.all_kv_heads());
    b.attend_backward(in.q, current, in.bundle(), in.dq, dkv);
    for (int t = 0; t < pass.steps(); ++t) {
      pass.backward(t, queries.slices(Field::q), in.kv, queries.slices(Field::dout | Field::lse | Field::delta),
                    queries.sums(), current, dkv);
      if (t == 0) queries.join_own();
      co_yield Step{};
    }
    queries.return_sums();
    b.result(b.finish(dkv));  // while the last sums travel
    co_yield Step{};
  }
  b.result(b.finish(in.dq));
}

// The size that sends the fewest bytes under a full mask, forward and backward together.
int best_size(const AttentionShape& shape, int ranks) {
  const auto bytes = [&](Fields fields, Form form) { return shape.wire_bytes_per_row(fields, form); };
  const int64_t queries =
      shape.heads *
      (bytes(Field::q, Form::whole) + bytes(Field::out | Field::lse, Form::accumulating) +
       bytes(Field::q | Field::dout | Field::lse | Field::delta, Form::whole) + bytes(Field::dq, Form::accumulating));
  const int64_t keys = shape.kv_heads * bytes(Field::k | Field::v, Form::whole);
  const int64_t key_sums = shape.kv_heads * bytes(Field::dk | Field::dv, Form::accumulating);
  return cheapest_divisor(ranks, [&](int size) {
    const int hops = ranks / size - 1;
    return (size - 1) * queries + hops * (keys + key_sums) + std::max(hops - 1, 0) * keys;
  });
}

int team_size(const AttentionShape& shape, int ranks, const MethodOptions& options) {
  const int size = degree_option("mercury-team", "team", ranks, options);
  return size == 0 ? best_size(shape, ranks) : size;
}

}  // namespace

const Method mercury_team = {
    .name = "mercury-team",
    .paper = "Mercury, Guan et al., SOSP 2025: its split of the loop over keys",
    .summary = "teams share queries and spread keys, which ring between teams; partial results merge inside teams",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "a team size that divides the ranks; any tokens, heads and kv heads",
    .options = {MethodOption::integer("team", "auto", {.min = 1, .max = 65536},
                                      "ranks that share queries, a divisor of all; auto: what sends the fewest bytes",
                                      {"auto"}),
                MethodOption::choice("placement", "inner", {"inner", "outer"},
                                     "whether members of a team are adjacent ranks, or those of a ring"),
                direction_option("reverse")},
    .layout = zigzag_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const int size = team_size(*problem, problem->ranks(), options);
      auto teams = make_teams(*problem, size, options.is("placement", "inner"), direction_of(options));
      return [teams](int rank, Builder& b) { return write(teams, rank, b); };
    },
    .formula =
        [](const Configuration& c, const MethodOptions& options) {
          return mercury_formula(c, team_size(c, c.ranks, options), options.is("placement", "inner"),
                                 direction_of(options));
        },
};

}  // namespace weft::methods
