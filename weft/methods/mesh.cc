// Mesh attention: every rank computes a tile of a x b blocks instead of a row of P, so O(sqrt(P)) travels.
//
//   6 ranks, 3 in a row (rank = 3 u + v)         tile of rank 4 (u 1, v 1): queries of 3, 4, 5 x keys of 1, 4
//     u 0:   0   1   2     a row shares queries
//     u 1:   3   4   5     a column shares keys
//
// Blocks of queries and of keys come one by one, straight from their owners, in the order that unlocks the most work per
// byte; what arrives in a step is worked on in the next. The partial result of a row of blocks goes home as soon as the
// row is done. Rows of one rank are a ring without forwarding, columns of one move queries only. Chen et al. 2025, arXiv
// 2512.20968. With T tokens a rank, rows sent per rank under a full mask: forward (a-1) T of q and of (out, lse) and
// (b-1) T of (k, v); backward (a-1) T of (q, dout, lse, delta) and of dq, and (b-1) T of (k, v) and of (dk, dv).
#include <algorithm>

#include "weft/methods/formulas/formulas.h"
#include "weft/methods/methods.h"
#include "weft/methods/passes/backward_inputs.h"
#include "weft/methods/passes/degrees.h"
#include "weft/methods/passes/mesh_steps.h"
#include "weft/methods/passes/travelling.h"

namespace weft::methods {
namespace {

// The grid, and when what arrives where: the same on all ranks. Counted from the own rank on, cyclically.
struct Mesh : MeshSteps {
  std::vector<IntervalSet> row_queries;  // [b] queries of each row of ranks
  std::vector<IntervalSet> column_keys;  // [a] keys of each column of ranks

  int width() const { return static_cast<int>(query_steps.size()); }
  int height() const { return static_cast<int>(key_steps.size()); }
  // Steps with compute; one more brings the last results home.
  int steps() const { return width() + height() - 1; }
};

std::shared_ptr<const Mesh> make_mesh(const Problem& problem, int width) {
  auto mesh = std::make_shared<Mesh>();
  const int height = problem.ranks() / width;
  static_cast<MeshSteps&>(*mesh) = make_mesh_steps(problem, width, height);
  mesh->row_queries.resize(static_cast<size_t>(height));
  mesh->column_keys.resize(static_cast<size_t>(width));
  for (int r = 0; r < problem.ranks(); ++r) {
    mesh->row_queries[static_cast<size_t>(r / width)].unite(problem.query_layout.shard(r));
    mesh->column_keys[static_cast<size_t>(r % width)].unite(problem.key_layout.shard(r));
  }
  return mesh;
}

// A block of queries with the sums of its rows, or a block of keys with its sums.
struct MeshSide {
  Held held;
  Value sums;
};

// One phase of a rank's program.
class MeshTile {
 public:
  MeshTile(const Mesh& mesh, Builder& b, Travelling queries, Travelling keys)
      : mesh_(mesh),
        b_(b),
        u_(b.rank() / mesh.width()),
        v_(b.rank() % mesh.width()),
        my_queries_(std::move(queries)),
        my_keys_(std::move(keys)) {
    queries_.resize(static_cast<size_t>(mesh.width()));
    keys_.resize(static_cast<size_t>(mesh.height()));
    queries_[0] = {{{}, my_queries_.own}, my_queries_.home};
    keys_[0] = {{{}, my_keys_.own}, my_keys_.home};
  }

  // Fetches what is worked on in the next step, and sends home what the step before completed.
  void trade(int step) {
    received_.clear();
    Exchange x = b_.exchange(0);
    for (int i = 1; i < mesh_.width(); ++i) {
      if (mesh_.query_steps[at(i)] == step + 1) fetch(x, queries_[at(i)], in_row(i), in_row(-i), true);
    }
    for (int j = 1; j < mesh_.height(); ++j) {
      if (mesh_.key_steps[at(j)] == step + 1) fetch(x, keys_[at(j)], in_column(j), in_column(-j), false);
    }
    for (int i = 1; i < mesh_.width(); ++i) {
      if (std::max(mesh_.query_steps[at(i)], mesh_.key_steps.back()) + 1 == step) {
        bring_home(x, queries_[at(i)], in_row(i), in_row(-i), true);
      }
    }
    for (int j = 1; j < mesh_.height(); ++j) {
      if (std::max(mesh_.key_steps[at(j)], mesh_.query_steps.back()) + 1 == step) {
        bring_home(x, keys_[at(j)], in_column(j), in_column(-j), false);
      }
    }
    x.issue();
    for (MeshSide* side : sent_) *side = {};
    sent_.clear();
  }

  // Calls work(queries, keys) for each block that the step before unlocked: what came in it, with all that was there.
  template <typename Work>
  void compute(int step, Work&& work) {
    const auto there = [step](const std::vector<int>& steps) {
      return static_cast<size_t>(std::upper_bound(steps.begin(), steps.end(), step) - steps.begin());
    };
    const size_t queries = there(mesh_.query_steps), keys = there(mesh_.key_steps);
    const bool new_queries = mesh_.query_steps[queries - 1] == step, new_keys = mesh_.key_steps[keys - 1] == step;
    if (!new_queries && !new_keys) return;
    for (size_t i = new_queries ? queries - 1 : 0; i < queries; ++i) {
      for (size_t j = new_queries ? 0 : keys - 1; j < keys; ++j) {
        if (!queries_[i].held.slices.empty() && !keys_[j].held.slices.empty()) work(queries_[i], keys_[j]);
      }
    }
  }

  // Sums of my own rows that others computed, received in this step.
  const std::vector<Value>& received() const { return received_; }

 private:
  static size_t at(int i) { return static_cast<size_t>(i); }
  // The ranks `i` places after me in my row and in my column; negative: before me.
  int in_row(int i) const { return u_ * mesh_.width() + (v_ + i + mesh_.width()) % mesh_.width(); }
  int in_column(int j) const { return (u_ + j + mesh_.height()) % mesh_.height() * mesh_.width() + v_; }
  // Rows of `owner` that `worker`, of its row (queries) or column (keys), needs.
  Set needed(int owner, int worker, bool queries) {
    const Problem& problem = b_.problem();
    if (queries)
      return b_.queries_needed(problem.query_layout.shard(owner), mesh_.column_keys[at(worker % mesh_.width())]);
    return b_.keys_needed(mesh_.row_queries[at(worker / mesh_.width())], problem.key_layout.shard(owner));
  }

  void fetch(Exchange& x, MeshSide& side, int owner, int worker, bool queries) {
    const Travelling& moving = queries ? my_queries_ : my_keys_;
    const Set heads = queries ? b_.all_heads() : b_.all_kv_heads();
    const Set sent = needed(b_.rank(), worker, queries), rows = needed(owner, b_.rank(), queries);
    send_rows(x, worker, moving.own, sent);
    side.held = moving.receive(b_, x, owner, rows, heads);
    if (!moving.sums.empty()) side.sums = b_.sums(moving.sums, rows, heads);
  }

  void bring_home(Exchange& x, MeshSide& side, int owner, int worker, bool queries) {
    const Travelling& moving = queries ? my_queries_ : my_keys_;
    if (moving.sums.empty()) return;  // keys have sums in backward only
    x.send(owner, side.sums);
    const Set heads = queries ? b_.all_heads() : b_.all_kv_heads();
    received_.push_back(b_.sums(moving.sums, needed(b_.rank(), worker, queries), heads));
    x.receive(worker, received_.back());
    sent_.push_back(&side);
  }

  const Mesh& mesh_;
  Builder& b_;
  int u_, v_;
  Travelling my_queries_, my_keys_;
  std::vector<MeshSide> queries_, keys_;
  std::vector<Value> received_;
  std::vector<MeshSide*> sent_;
};

Steps write(std::shared_ptr<const Mesh> mesh, Builder& b) {
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q);
  {
    MeshTile tile(*mesh, b, moving_queries(q, acc), moving_keys(kv));
    for (int step = 0; step <= mesh->steps(); ++step) {
      tile.trade(step);
      tile.compute(step, [&](const MeshSide& queries, const MeshSide& keys) {
        b.attend(queries.held.slices, keys.held.slices, queries.sums);
      });
      for (const Value& part : tile.received()) b.merge(acc[part.tokens()], part);
      co_yield Step{};
    }
  }
  b.result(b.finish(acc));
  acc.reset(), q.reset(), kv.reset();
  if (!b.problem().backward) co_return;

  BackwardInputs in(b);
  in.prepare();
  Value dkv = in.key_sums();
  {
    MeshTile tile(*mesh, b, moving_queries(in.q, in.bundle(), in.dq), moving_keys(in.kv, dkv));
    for (int step = 0; step <= mesh->steps(); ++step) {
      tile.trade(step);
      tile.compute(step, [&](const MeshSide& queries, const MeshSide& keys) {
        b.attend_backward(queries.held.slices[0], keys.held.slices, queries.held.bundle(), queries.sums, keys.sums);
      });
      for (const Value& part : tile.received())
        b.add((part.fields().has(Field::dq) ? in.dq : dkv)[part.tokens()], part);
      co_yield Step{};
    }
  }
  b.result(b.finish(in.dq));
  b.result(b.finish(dkv));
}

int width_of(const AttentionShape& shape, int ranks, const MethodOptions& options) {
  const int width = degree_option("mesh", "width", ranks, options);
  return width == 0 ? best_mesh_width(shape, ranks) : width;
}

}  // namespace

const Method mesh = {
    .name = "mesh",
    .paper = "Mesh-Attention, Chen et al. 2025, arXiv 2512.20968",
    .summary = "every rank computes a tile of blocks: queries are shared in its row, keys in its column of a grid",
    .masks = "full, causal, sliding window, packed documents and combinations",
    .needs = "a row width that divides the ranks; any tokens, heads and kv heads",
    .options = {MethodOption::integer("width", "auto", {.min = 1, .max = 65536},
                                      "ranks that share queries, a divisor of all; the others share keys", {"auto"})},
    .layout = zigzag_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const int width = width_of(*problem, problem->ranks(), options);
      return [mesh = make_mesh(*problem, width)](int /*rank*/, Builder& b) { return write(mesh, b); };
    },
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return mesh_formula(c, width_of(c, c.ranks, options)); },
};

}  // namespace weft::methods
