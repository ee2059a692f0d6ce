// LightSeq (DistFlashAttn): contiguous shards, and early ranks help late ones under a causal mask.
//
//   5 ranks, causal (cell: query block . key block; [..]: computed for the rank that owns the queries)
//            rank 0   rank 1   rank 2   rank 3   rank 4
//   step 0     0.0      1.1      2.2      3.3      4.4
//   step 1    [4.0]     1.0      2.1      3.2      4.3
//   step 2    [3.0]    [4.1]     2.0      3.1      4.2
//
// A block of distance up to P/2 is computed where its queries are, one farther away where its keys are. An odd P is
// perfectly balanced, an even one idles half of its ranks in the last step. What travels goes straight to where it is
// used, results straight home one step later. Above the diagonal (masks that are not causal) the same holds mirrored.
// Li, Shao, Xie, Xing, Ma, Stoica, Gonzalez, Zhang 2023, arXiv 2310.03294, which has even P and the causal mask only.
// With T tokens a rank, an even P and a causal mask, rows sent by all ranks: forward (P/2)(3P/4 - 1/2) T of (k, v) and
// (P/2)(P/4 - 1/2) T of q and of (out, lse).
#include <array>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/travelling.h"

namespace weft::methods {
namespace {

constexpr std::array kSides = {0, 1};  // below the diagonal, above it

// One rank's part in one step, on one side of the diagonal.
struct Task {
  int peer = 0;
  bool helps = false;  // the keys stay, the queries come; else the queries stay and the keys come
  Set rows;            // of the peer's queries or keys
};

class LightSeq {
 public:
  explicit LightSeq(Builder& b) : b_(b), problem_(b.problem()), ranks_(problem_.ranks()) {}

  int last() const { return ranks_ / 2; }

  // What rank r computes in step t with rows of a peer.
  Task task(int r, int t, int side) {
    const int sign = side == 0 ? 1 : -1, apart = r - sign * t;
    Task task{.peer = (apart + ranks_) % ranks_, .helps = apart < 0 || apart >= ranks_, .rows = {}};
    if (!task.helps) task.rows = b_.keys_needed(queries(r), keys(task.peer));
    // Halfway round both ends are equally far: the owner of the queries does it.
    if (task.helps && 2 * t != ranks_) task.rows = b_.queries_needed(queries(task.peer), keys(r));
    return task;
  }
  Task mine(int t, int side) { return task(b_.rank(), t, side); }
  // The task of the rank that works with my rows in step t. Its `peer` is that rank.
  Task with_mine(int t, int side) {
    const int r = (b_.rank() + (side == 0 ? t : -t) + ranks_) % ranks_;
    Task task = this->task(r, t, side);
    task.peer = r;
    return task;
  }

  // Brings the rows that step t works on.
  void fetch(Exchange& x, int t, const Travelling& queries, const Travelling& keys) {
    if (t > last()) return;
    for (int side : kSides) {
      const Task theirs = with_mine(t, side), task = mine(t, side);
      const Travelling& sent = theirs.helps ? queries : keys;
      send_rows(x, theirs.peer, sent.own, theirs.rows);
      const Travelling& fetched = task.helps ? queries : keys;
      next_[static_cast<size_t>(side)] =
          fetched.receive(b_, x, task.peer, task.rows, task.helps ? b_.all_heads() : b_.all_kv_heads()).rows;
    }
  }
  // Sends the results of step t home and receives what others computed for me.
  std::array<Value, 2> bring_home(Exchange& x, int t, const Travelling& queries, const Travelling& keys) {
    std::array<Value, 2> got;
    if (t < 1) return got;
    for (int side : kSides) {
      const Task theirs = with_mine(t, side);
      const Fields fields = theirs.helps ? queries.sums : keys.sums;
      x.send(mine(t, side).peer, results_[static_cast<size_t>(side)]);
      if (fields.empty() || theirs.rows.empty()) continue;
      got[static_cast<size_t>(side)] = b_.sums(fields, theirs.rows, theirs.helps ? b_.all_heads() : b_.all_kv_heads());
      x.receive(theirs.peer, got[static_cast<size_t>(side)]);
    }
    return got;
  }
  // Makes what was fetched the current rows of a side.
  Value take(int side) { return std::move(next_[static_cast<size_t>(side)]); }
  // Results live until they are sent.
  void results_are_sent() { results_ = {}; }
  void keep(int side, Value result) { results_[static_cast<size_t>(side)] = std::move(result); }

 private:
  const IntervalSet& queries(int r) const { return problem_.query_layout.shard(r); }
  const IntervalSet& keys(int r) const { return problem_.key_layout.shard(r); }

  Builder& b_;
  const Problem& problem_;
  int ranks_;
  std::array<Value, 2> next_, results_;
};

Steps write(std::shared_ptr<const Problem> problem, Builder& b) {
  LightSeq light(b);
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q);
  Travelling queries = moving_queries(q, acc), keys = moving_keys(kv);
  for (int t = 0; t <= light.last() + 1; ++t) {
    std::array<Value, 2> rows = {light.take(0), light.take(1)};
    Exchange x = b.exchange(0);
    light.fetch(x, t + 1, queries, keys);
    const std::array<Value, 2> got = light.bring_home(x, t - 1, queries, keys);
    x.issue();
    light.results_are_sent();
    if (t == 0) b.attend(q, kv, acc);
    for (int side : kSides) {
      const Value& current = rows[static_cast<size_t>(side)];
      if (t == 0 || current.empty()) continue;
      if (light.mine(t, side).helps) {
        Value part = b.partial(current);
        b.attend(current, kv, part);
        light.keep(side, std::move(part));
      } else {
        b.attend(q, current, acc);
      }
    }
    for (const Value& part : got) b.merge(acc[part.tokens()], part);
    co_yield Step{};
  }
  b.result(b.finish(acc));
  queries = {}, keys = {};
  acc.reset(), q.reset(), kv.reset();
  if (!problem->backward) co_return;

  BackwardInputs in(b);
  in.prepare();
  Value dkv = in.key_sums();
  const std::vector<Slice> bundle = in.bundle();
  queries = moving_queries(in.q, bundle, in.dq), keys = moving_keys(in.kv, dkv);
  for (int t = 0; t <= light.last() + 1; ++t) {
    std::array<Value, 2> rows = {light.take(0), light.take(1)};
    Exchange x = b.exchange(0);
    light.fetch(x, t + 1, queries, keys);
    const std::array<Value, 2> got = light.bring_home(x, t - 1, queries, keys);
    x.issue();
    light.results_are_sent();
    if (t == 0) b.attend_backward(in.q, in.kv, bundle, in.dq, dkv);
    for (int side : kSides) {
      const Value& current = rows[static_cast<size_t>(side)];
      if (t == 0 || current.empty()) continue;
      if (light.mine(t, side).helps) {
        Value part = b.sums(queries.sums, current.tokens(), current.heads());
        b.attend_backward(current.only(Field::q), in.kv, current.only(Field::dout | Field::lse | Field::delta), part,
                          dkv);
        light.keep(side, std::move(part));
      } else {
        Value part = b.sums(keys.sums, current.tokens(), current.heads());
        b.attend_backward(in.q, current, bundle, in.dq, part);
        light.keep(side, std::move(part));
      }
    }
    for (const Value& part : got) {
      if (!part.empty()) b.add((part.fields().has(Field::dq) ? in.dq : dkv)[part.tokens()], part);
    }
    co_yield Step{};
  }
  b.result(b.finish(in.dq));
  b.result(b.finish(dkv));
}

}  // namespace

const Method lightseq = {
    .name = "lightseq",
    .paper = "LightSeq / DistFlashAttn, Li, Shao et al. 2023, arXiv 2310.03294",
    .summary =
        "contiguous shards; ranks that run out of causal work compute blocks for late ranks and send results home",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "any tokens, ranks, heads and kv heads; an odd number of ranks is perfectly balanced under a causal mask",
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      return [problem](int /*rank*/, Builder& b) { return write(problem, b); };
    },
    .formula = [](const Configuration& c, const MethodOptions&) { return lightseq_formula(c); },
};

}  // namespace weft::methods
