// Masks: which query may attend to which key, as a list of disjoint band rectangles over global positions.
//
//   Mask mask = Mask::documents({1, 4000, 37}, {.causal = true, .window = 256});
//   mask.area();                                    // allowed pairs, exact
//   mask.covers(q, k);                              // one pair
//   for (const BandRectangle& band : mask.bands()) ...
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weft/mask/band.h"

namespace weft {

// What one query may see of its own document.
struct MaskRule {
  bool causal = false;  // key <= query
  int64_t window = 0;   // 0: no limit; W: |query - key| < W, so with causal the last W keys, self included

  friend bool operator==(const MaskRule&, const MaskRule&) = default;
};

// "full", "causal", "window:W" or "causal+window:W". Throws Error(usage).
MaskRule parse_mask_rule(std::string_view text);
std::string to_string(const MaskRule& rule);

// An immutable set of allowed (query, key) pairs. Query and key positions count from 0, each on its own axis;
// for self-attention they are the same tokens.
class Mask {
 public:
  // One document of `tokens` tokens.
  static Mask of(int64_t tokens, MaskRule rule);
  // Documents packed one after another; the rule holds inside each, nothing crosses. Every length is at least 1.
  static Mask documents(const std::vector<int64_t>& lengths, MaskRule rule);
  // `queries` x `keys` pairs without any restriction: cross-attention.
  static Mask cross(int64_t queries, int64_t keys);
  // The same inside pairs of packed documents: query document i sees all of key document i and nothing else. As many
  // lengths on both sides, each at least 1.
  static Mask cross_documents(const std::vector<int64_t>& query_lengths, const std::vector<int64_t>& key_lengths);
  // Any disjoint bands inside [0, queries) x [0, keys), in any order. Throws Error(usage) when one sticks out or two
  // overlap. O(n log n), whatever the bands.
  static Mask from_bands(int64_t queries, int64_t keys, std::vector<BandRectangle> bands);

  int64_t queries() const { return queries_; }
  int64_t keys() const { return keys_; }
  // Disjoint, none empty, ordered by (q.begin, k.begin, q.end, k.end, lo).
  const std::vector<BandRectangle>& bands() const { return bands_; }
  // A contiguous part of bands() that holds every band meeting the given queries and keys, found by bisection. For
  // packed documents it is exact; for masks whose bands are not ordered along the keys it may hold others too.
  std::span<const BandRectangle> bands_meeting(Range q, Range k) const {
    if (bands_.size() != 1) return find_bands_meeting(q, k);
    const BandRectangle& only = bands_[0];  // a single sequence, the usual mask
    return {&only, !intersect(only.q, q).empty() && !intersect(only.k, k).empty() ? size_t{1} : size_t{0}};
  }

  // The same pairs with the roles of queries and keys exchanged.
  Mask transposed() const;

  // Number of allowed pairs, without heads.
  int64_t area() const { return area_; }
  bool covers(int64_t query, int64_t key) const;
  // Whether every pair of `other` is allowed here; false when `other` has more queries or keys.
  bool includes(const Mask& other) const;

  friend bool operator==(const Mask& a, const Mask& b) {
    return a.queries_ == b.queries_ && a.keys_ == b.keys_ && a.bands_ == b.bands_;
  }

 private:
  Mask(int64_t queries, int64_t keys, std::vector<BandRectangle> bands);
  std::span<const BandRectangle> find_bands_meeting(Range q, Range k) const;

  int64_t queries_ = 0;
  int64_t keys_ = 0;
  int64_t area_ = 0;
  std::vector<BandRectangle> bands_;
  std::vector<int64_t> reach_;  // reach_[i] = largest q.end among bands_[0..i], for bisection
  bool keys_ordered_ = true;    // k.begin and k.end ascend along bands_ too, as they do for packed documents
};

}  // namespace weft
