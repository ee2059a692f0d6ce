// From slots to rows: the kernel blocks of an attend. Private to this folder.
//
// A kernel knows the rows of its tensors; a schedule knows slots. The allowed pairs of two token
// sets, numbered in rows of the values that hold them, are the same at every step of training, so
// they are remembered.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "weft/kernels/kernels.h"
#include "weft/layout/allowed_pairs.h"
#include "weft/schedule/set_pool.h"

namespace weft::execute_internal {

// Which pairs, and the tokens of the values in which the rows of each operand are counted.
struct BlockKey {
  SetId q{}, k{};          // queries and keys of the attend
  SetId q_all{}, k_all{};  // of the values that hold q; k and v
  SetId out_all{};         // out and lse; in backward dq
  SetId bundle_all{};      // dout, lse, delta: backward only
  SetId grad_all{};        // dk, dv: backward only

  friend bool operator==(const BlockKey&, const BlockKey&) = default;
};

class BlockCache {
 public:
  // With a tile (Problem::canonical_tile), blocks whose slices cut one are refused.
  BlockCache(const AllowedPairs& pairs, SetPool& pool, int64_t tile = 0) : pairs_(pairs), pool_(pool), tile_(tile) {}

  // Sorted as kernels want them. Valid until the next call. Throws Error(unsupported) as said above.
  std::span<const kernels::Block> of(const BlockKey& key);

 private:
  struct Hash {
    size_t operator()(const BlockKey& key) const;
  };
  std::vector<kernels::Block> compute(const BlockKey& key) const;
  void check_tiles(const BlockKey& key) const;
  static constexpr size_t kMaxRemembered = 200'000;  // blocks; about 15 MB

  const AllowedPairs& pairs_;
  SetPool& pool_;
  const int64_t tile_;
  std::unordered_map<BlockKey, std::vector<kernels::Block>, Hash> known_;
  size_t remembered_ = 0;
};

}  // namespace weft::execute_internal
