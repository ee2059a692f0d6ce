#include "weft/torch/packed_pieces.h"

#include <algorithm>

#include "weft/kernels/band_pieces.h"
#include "weft/torch/device_ints.h"

namespace weft::torch_internal {
namespace {

using kernels::BandPiece;
using kernels::PieceShape;

struct Piece {
  BandPiece at;
  int64_t out_row, bundle_row, grad_row;
};

// Pieces of one call, in ascending order of queries; in backward of keys, too.
using Batch = std::vector<Piece>;

std::vector<Batch> batches_of(std::span<const kernels::Block> blocks, PieceShape shape, bool backward) {
  std::vector<Piece> pieces;
  for (const kernels::Block& block : blocks) {
    for (const BandPiece& piece : kernels::band_pieces(block.band)) {
      if (piece.shape != shape) continue;
      const int64_t q = piece.q.begin - block.band.q.begin, k = piece.k.begin - block.band.k.begin;
      pieces.push_back({piece, block.out_row + q, block.bundle_row + q, block.kv_grad_row + k});
    }
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::pair(a.at.q.begin, a.at.k.begin) < std::pair(b.at.q.begin, b.at.k.begin);
  });
  std::vector<Batch> batches;
  for (const Piece& piece : pieces) {
    const auto fits = std::find_if(batches.begin(), batches.end(), [&](const Batch& batch) {
      const BandPiece& last = batch.back().at;
      return last.q.end <= piece.at.q.begin && (!backward || last.k.end <= piece.at.k.begin);
    });
    if (fits != batches.end()) {
      fits->push_back(piece);
    } else {
      batches.push_back({piece});
    }
  }
  return batches;
}

// f(piece): the first row of a piece; rows(piece): how many.
template <typename First, typename Count>
PackedRows rows_of(const Batch& batch, c10::Device device, bool reversed, First&& first, Count&& count) {
  PackedRows rows;
  rows.begin = first(batch.front());
  bool follow = !reversed;
  int64_t next = rows.begin, total = 0;
  for (const Piece& piece : batch) {
    follow &= first(piece) == next;
    next = first(piece) + count(piece);
    rows.end = std::max(rows.end, next);
    rows.ends.push_back(total += count(piece));
  }
  if (follow) return rows;
  std::vector<int64_t> index;
  index.reserve(static_cast<size_t>(total));
  for (const Piece& piece : batch) {
    const int64_t begin = first(piece), size = count(piece);
    for (int64_t i = 0; i < size; ++i) index.push_back(reversed ? begin + size - 1 - i : begin + i);
  }
  rows.index = device_ints(index, device);
  return rows;
}

PieceCall call_of(const Batch& batch, PieceShape shape, c10::Device device, bool backward) {
  const bool reversed = shape == PieceShape::anti_causal;
  const auto queries = [](const Piece& p) { return p.at.q.size(); };
  const auto keys = [](const Piece& p) { return p.at.k.size(); };
  const auto make = [&](auto first, auto count) { return rows_of(batch, device, reversed, first, count); };
  PieceCall call;
  call.triangles = shape != PieceShape::full;
  call.q = make([](const Piece& p) { return p.at.q.begin; }, queries);
  call.k = make([](const Piece& p) { return p.at.k.begin; }, keys);
  call.out = make([](const Piece& p) { return p.out_row; }, queries);
  if (!backward) return call;
  call.bundle = make([](const Piece& p) { return p.bundle_row; }, queries);
  call.grad = make([](const Piece& p) { return p.grad_row; }, keys);
  return call;
}

}  // namespace

std::vector<PieceCall> piece_calls(std::span<const kernels::Block> blocks, c10::Device device, bool backward) {
  std::vector<PieceCall> calls;
  for (const PieceShape shape : {PieceShape::full, PieceShape::causal, PieceShape::anti_causal}) {
    for (const Batch& batch : batches_of(blocks, shape, backward)) {
      calls.push_back(call_of(batch, shape, device, backward));
    }
  }
  return calls;
}

}  // namespace weft::torch_internal
