// The decays of one chunk of tokens, and what they do to products of its rows. With c_i the sum of the chunk's logarithms up
// to token i and C its last token, a token that reads by x what an earlier one wrote by y gets, summed over the rows of R,
//
//   scores_ij = sum of x_i exp(c_i - c_j) y_j for j <= i       or, where it reads before its own decay,
//               sum of x_i exp(c_{i-1} - c_j) y_j for j < i
//
// With one decay for all rows that is a product of matrices times a matrix of decays. With one for each row the chunk is cut
// into blocks of kBlock tokens: a block's x are taken back to its begin, the y before it forward to there, block by block,
// and what is between them is a product; inside a block the decays are multiplied pair by pair. So every factor is a product
// of decays, none is ever divided, and what has been carried to the chunk's end is what the state after it takes.
//
// Private to this folder.
#pragma once

#include <span>

#include "weft/kernels/linear/chunk_math.h"

namespace weft::kernels::recurrence_internal {

enum class Reading { after, before };  // of the state after the token's own decay and writing, or before both

template <typename T>
class ChunkDecays {
 public:
  using M = BlockMatrix<T>;
  static constexpr int64_t kBlock = 16;

  // `gates` logarithms for each token: 1, or `dim`. `reads_before` where that reading is asked for at all.
  ChunkDecays(const Blocks<T>& blocks, int64_t gates, int64_t dim, bool reads_before)
      : blocks_(blocks), gates_(gates), dim_(dim), reads_before_(reads_before) {}

  // Of a chunk with these logarithms [rows, gates]; `constant` if every call is given the same in every row.
  void load(const M& logs, bool constant);

  // to_i = x_i exp(c_i), or exp(c_{i-1}).
  void from_begin(const M& x, Reading reading, M& to) const;
  // to_j = y_j exp(c_C - c_j).
  void to_end(const M& y, M& to) const;
  void scores(const M& x, const M& y, Reading reading, M& to) const;
  bool one_gate() const { return gates_ == 1; }
  // dx and dy from the gradients of the scores that there are. With a gate for each row these are of pairs of different
  // tokens only.
  void gradients(const M& dscores, const M& x, const M& y, Reading reading, M& dx, M& dy) const;
  // The same, added to dx and dy; one gate only.
  void add_gradients(const M& dscores, const M& x, const M& y, Reading reading, M& dx, M& dy) const;
  // Adds what gradients() has left out of what each token reads of its own writing; all of it where it has a factor for each
  // row (null: 1).
  void add_own_gradients(const M& dscores, const M& x, const M& y, const T* factors, M& dx, M& dy) const;
  // exp c_C for each row of the state.
  const T* passed() const { return passed_.data(); }
  // The sum of the chunk's logarithms, for each gate.
  std::span<const double> sums() const { return sums_; }

 private:
  void load_scalar(const M& logs);
  void load_channels(const M& logs);
  int64_t blocks() const { return (rows_ + kBlock - 1) / kBlock; }
  int64_t size_of_block(int64_t block) const { return std::min(kBlock, rows_ - block * kBlock); }
  // dscores times the decays between the tokens of a pair, of one gate.
  const M& masked(const M& dscores, Reading reading) const;
  const M& from_block_begin(Reading reading) const { return reading == Reading::after ? in_block_ : in_block_before_; }

  const Blocks<T> blocks_;
  const int64_t gates_, dim_;
  const bool reads_before_;
  int64_t rows_ = 0;
  std::vector<T> passed_;
  std::vector<double> sums_;
  // One gate: exp c_i, exp c_{i-1}, exp(c_C - c_i), and the decays between tokens, for both readings.
  std::vector<T> up_to_, before_, after_;
  M between_, between_before_;
  // A gate for each row: exp g; from the block's begin up to the token, or before it; from after the token to the block's end;
  // [blocks, dim] of a whole block.
  M decay_, in_block_, in_block_before_, to_block_end_, block_;
  mutable M row_, carried_, near_, transposed_, masked_;
  mutable std::vector<T> own_;
};

extern template class ChunkDecays<float>;
extern template class ChunkDecays<double>;

// dg of one chunk, from what passes each token's decay on its way: what is read is summed from the chunk's end, what is
// written to its end from its begin.
template <typename T>
class GateGradients {
 public:
  using M = BlockMatrix<T>;
  GateGradients(const Blocks<T>& blocks, int64_t gates, int64_t dim) : blocks_(blocks), gates_(gates), dim_(dim) {}

  void begin(int64_t rows);
  // What tokens read by x of the state before the chunk.
  void add_entering(const M& x, const M& dx, Reading reading) {
    add(x, dx, reading == Reading::after ? after_ : before_);
  }
  // What the gradient behind the chunk takes of their writing by y.
  void add_leaving(const M& y, const M& dy) { add(y, dy, leaving_); }
  // Pairs, as ChunkDecays::gradients has them.
  void add_pairs(const M& scores, const M& dscores, const M& x, const M& dx, const M& y, const M& dy, Reading reading);
  // What passes the whole chunk, from the state before it to the gradient behind it; then adds all to dg, row by row.
  void finish(const M& state, const M& dstate, const T* passed, const View& dg, int64_t first);

 private:
  void add(const M& x, const M& dx, std::vector<double>& to);
  void add_crossing(const M& scores, const M& dscores, Reading reading);

  const Blocks<T> blocks_;
  const int64_t gates_, dim_;
  int64_t rows_ = 0;
  // [rows, gates]: sums over what is read at the token and after it, or after it only; over what is written before it; done.
  std::vector<double> after_, before_, leaving_, whole_;
  std::vector<T> dots_;
};

extern template class GateGradients<float>;
extern template class GateGradients<double>;

}  // namespace weft::kernels::recurrence_internal
