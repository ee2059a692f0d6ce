// What mesh.cc costs: every rank fetches a row of queries and a column of keys and sends the sums home.
#include "weft/methods/formulas/formulas.h"
#include "weft/methods/formulas/parts.h"
#include "weft/methods/passes/mesh_steps.h"

namespace weft::methods {
namespace {

// Blocks of one rank (u, v) of a grid of `height` rows and `width` columns.
class Tile {
 public:
  Tile(const Shares& shares, int64_t width, int64_t height, int64_t rank)
      : shares_(shares), width_(width), height_(height), u_(rank / width), v_(rank % width) {}

  // Rows of my i-th block of queries, j-th block of keys, and of mine that the rank works on to which I am that.
  int64_t queries(int64_t i) const { return queries_needed((v_ + i) % width_, v_); }
  int64_t my_queries(int64_t i) const { return queries_needed(v_, (v_ - i + width_) % width_); }
  int64_t keys(int64_t j) const { return keys_needed((u_ + j) % height_, u_); }
  int64_t my_keys(int64_t j) const { return keys_needed(u_, (u_ - j + height_) % height_); }

 private:
  // By all ranks of a column, of an owner in my row.
  int64_t queries_needed(int64_t owner, int64_t column) const {
    const bool before = u_ > 0 || column < owner, after = u_ + 1 < height_ || column > owner;
    return std::max(before ? shares_.queries.by_before : 0, after ? shares_.queries.by_after : 0);
  }
  // By all ranks of another row.
  int64_t keys_needed(int64_t owner, int64_t row) const { return shares_.keys.by(row, owner); }

  const Shares& shares_;
  int64_t width_, height_, u_, v_;
};

class MeshPhase {
 public:
  MeshPhase(const Shares& shares, const MeshSteps& steps, Side queries, Side keys)
      : shares_(shares), steps_(steps), queries_(queries), keys_(keys) {}

  int64_t width() const { return static_cast<int64_t>(steps_.query_steps.size()); }
  int64_t height() const { return static_cast<int64_t>(steps_.key_steps.size()); }
  int64_t last() const { return width() + height() - 1; }  // the step without compute
  int64_t steps() const { return last() + (width() > 1 || (height() > 1 && keys_.sums > 0)); }

  int64_t messages() const {
    return trades(steps_.query_steps, steps_.key_steps.back(), true) +
           trades(steps_.key_steps, steps_.query_steps.back(), keys_.sums > 0);
  }
  int64_t bytes(int64_t rank) const {
    const Tile tile(shares_, width(), height(), rank);
    int64_t bytes = 0;
    for (int64_t i = 1; i < width(); ++i)
      bytes += tile.my_queries(i) * queries_.block + tile.queries(i) * queries_.sent;
    for (int64_t j = 1; j < height(); ++j) bytes += tile.my_keys(j) * keys_.block + tile.keys(j) * keys_.sent;
    return bytes;
  }
  int64_t exposed(int64_t rank) const {
    const Tile tile(shares_, width(), height(), rank);
    int64_t bytes = 0;
    for (int64_t i = 1; i < width(); ++i) bytes += (home_queries(i) == last()) * tile.my_queries(i) * queries_.sent;
    for (int64_t j = 1; j < height(); ++j) bytes += (home_keys(j) == last()) * tile.my_keys(j) * keys_.sent;
    return bytes;
  }
  // Most that a rank holds besides what it holds all along.
  int64_t most_held(int64_t rank) const {
    const Tile tile(shares_, width(), height(), rank);
    int64_t most = 0;
    for (int64_t step = 0; step <= last(); ++step) {
      int64_t held = 0;
      for (int64_t i = 1; i < width(); ++i) {
        if (steps_.query_steps[static_cast<size_t>(i)] > step + 1 || home_queries(i) < step) continue;
        held += tile.queries(i) * (queries_.block + queries_.sums);
        if (home_queries(i) == step) held += tile.my_queries(i) * queries_.sums + tile.queries(i) * queries_.packed;
      }
      for (int64_t j = 1; j < height(); ++j) {
        const bool stays = keys_.sums == 0;  // keys without sums have nothing to bring home
        if (steps_.key_steps[static_cast<size_t>(j)] > step + 1 || (!stays && home_keys(j) < step)) continue;
        held += tile.keys(j) * (keys_.block + keys_.sums);
        if (home_keys(j) == step) held += tile.my_keys(j) * keys_.sums + tile.keys(j) * keys_.packed;
      }
      most = std::max(most, held);
    }
    return most;
  }

 private:
  // The step in which sums go home: after the last block of their row.
  int64_t home_queries(int64_t i) const { return home(steps_.query_steps, i, steps_.key_steps.back()); }
  int64_t home_keys(int64_t j) const { return home(steps_.key_steps, j, steps_.query_steps.back()); }
  static int64_t home(const std::vector<int>& steps, int64_t i, int others_last) {
    return std::max(steps[static_cast<size_t>(i)], others_last) + 1;
  }
  // Messages along a row or a column. A block to a rank and sums to the same are one, when they leave together.
  static int64_t trades(const std::vector<int>& steps, int others_last, bool sums) {
    const int64_t size = static_cast<int64_t>(steps.size());
    int64_t messages = (size - 1) * (sums ? 2 : 1);
    for (int64_t i = 1; sums && i < size; ++i) {
      messages -= home(steps, size - i, others_last) == steps[static_cast<size_t>(i)] - 1;
    }
    return messages;
  }

  const Shares& shares_;
  const MeshSteps& steps_;
  Side queries_, keys_;
};

}  // namespace

Formula mesh_formula(const Configuration& c, int width) {
  Formula f;
  const Shares shares = share_rows(c, "zigzag", f);
  if (!f.known()) return f;
  if (c.ranks > 1 && c.mask.causal && !c.layout.empty() && c.layout != "zigzag") {
    return no_formula("no closed form for a causal mask on another layout than zigzag");
  }
  const MeshSteps steps = make_mesh_steps(c, width, c.ranks / width);
  const int64_t rows = shares.rows;
  const RowBytes row(c);
  // Ranks of one row are alike: every column has a rank before them. Not so in the first row.
  const auto over_kinds = [&](auto&& of_rank) {
    if (shares.full) return same_on_all(c.ranks, of_rank(0));
    Amount amount = over_all(width, of_rank);
    for (int64_t first = width; first < c.ranks; first += width) {
      const int64_t each = of_rank(first);
      amount.total += width * each;
      amount.busiest = std::max(amount.busiest, each);
    }
    return amount;
  };
  const auto count = [&](PhaseCost& cost, const MeshPhase& phase) {
    cost.steps = phase.steps();
    cost.work = shares.work;
    cost.messages = same_on_all(c.ranks, phase.messages());
    cost.bytes = over_kinds([&](int64_t r) { return phase.bytes(r); });
    cost.exposed_bytes = over_kinds([&](int64_t r) { return phase.exposed(r); });
  };
  const auto most_held = [&](const MeshPhase& phase) {
    return over_kinds([&](int64_t r) { return phase.most_held(r); }).busiest;
  };
  const MeshPhase forward(shares, steps, {row.q, row.partial, row.sent_partial, row.packed_partial}, {row.kv, 0, 0, 0});
  count(f.forward, forward);
  f.live_bytes = rows * (row.q + row.kv + row.partial) + std::max(most_held(forward), rows * row.out);
  if (!c.backward) return f;

  const MeshPhase backward(shares, steps, {row.bundle, row.dq, row.sent_dq, row.packed_dq},
                           {row.kv, row.dkv, row.sent_dkv, row.packed_dkv});
  count(f.backward, backward);
  const int64_t results = rows * std::max(row.dq_done, row.dkv_done);
  f.live_bytes =
      std::max(f.live_bytes, rows * (row.backward_inputs() + row.dkv) + std::max(most_held(backward), results));
  return f;
}

}  // namespace weft::methods
