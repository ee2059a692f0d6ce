#include "weft/mask/mask.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <tuple>

#include "weft/base/error.h"

namespace weft {
namespace {

constexpr int64_t kMaxTokens = (int64_t{1} << 31) - 1;

void check_tokens(int64_t tokens, const char* what) {
  if (tokens < 1 || tokens > kMaxTokens) {
    throw Error(ErrorCode::usage, std::string(what) + " " + std::to_string(tokens) + " is out of range; use 1 to " +
                                      std::to_string(kMaxTokens));
  }
}

void check_rule(const MaskRule& rule) {
  if (rule.window < 0 || rule.window > kMaxTokens) {
    throw Error(ErrorCode::usage, "window " + std::to_string(rule.window) +
                                      " is out of range; use 0 for no limit or 1 to " + std::to_string(kMaxTokens));
  }
}

// Where each of the packed documents lies.
std::vector<Range> ranges_of(const std::vector<int64_t>& lengths) {
  if (lengths.empty()) throw Error(ErrorCode::usage, "no documents given; use at least one length");
  std::vector<Range> ranges;
  ranges.reserve(lengths.size());
  int64_t begin = 0;
  for (int64_t length : lengths) {
    if (length < 1) {
      throw Error(ErrorCode::usage, "document " + std::to_string(ranges.size()) + " has " + std::to_string(length) +
                                        " tokens; every document needs at least 1");
    }
    check_tokens(length, "document length");
    check_tokens(begin + length, "sum of document lengths");
    ranges.push_back({begin, begin + length});
    begin += length;
  }
  return ranges;
}

BandRectangle band_of(Range document, const MaskRule& rule) {
  BandRectangle band{.q = document, .k = document};
  if (rule.window > 0) {
    band.lo = 1 - rule.window;
    band.hi = rule.window - 1;
  }
  if (rule.causal) band.hi = std::min<int64_t>(band.hi, 0);
  return band;
}

// Whether two band rectangles share a pair: their intersection is a band rectangle again.
bool overlap(const BandRectangle& a, const BandRectangle& b) {
  BandRectangle both = cut(a, b.q, b.k);
  both.lo = std::max(a.lo, b.lo);
  both.hi = std::min(a.hi, b.hi);
  return !both.empty();
}

// Throws when two bands share a pair. Sweeps over the query rows: a row meets a band in one interval
// of keys, whose ends stay or advance by one from row to row. So intervals that never overlap never
// change their order, and it is enough to compare neighbours when a band comes or goes: O(n log n).
void check_disjoint(const std::vector<BandRectangle>& bands) {
  std::vector<BandRectangle> shrunk;  // so that every row of a band has a key
  std::vector<size_t> comes;
  shrunk.reserve(bands.size());
  for (const BandRectangle& band : bands) {
    shrunk.push_back(shrink(band));
    if (!shrunk.back().q.empty()) comes.push_back(shrunk.size() - 1);
  }
  std::vector<size_t> goes = comes;
  std::sort(comes.begin(), comes.end(), [&](size_t a, size_t b) { return shrunk[a].q.begin < shrunk[b].q.begin; });
  std::sort(goes.begin(), goes.end(), [&](size_t a, size_t b) { return shrunk[a].q.end < shrunk[b].q.end; });

  int64_t row = 0;
  const auto first_key = [&](size_t i) { return std::max(shrunk[i].k.begin, row + shrunk[i].lo); };
  const auto before = [&](size_t a, size_t b) { return first_key(a) < first_key(b); };
  std::set<size_t, decltype(before)> active(before);
  std::vector<decltype(active)::iterator> place(bands.size());
  const auto compare = [&](size_t a, size_t b) {
    if (!overlap(shrunk[a], shrunk[b])) return;
    throw Error(ErrorCode::usage, "mask rectangles " + std::to_string(std::min(a, b)) + " and " +
                                      std::to_string(std::max(a, b)) +
                                      " overlap; every (query, key) pair may be in one only");
  };
  size_t gone = 0;
  const auto remove_next = [&] {
    const auto next = active.erase(place[goes[gone++]]);
    if (next != active.begin() && next != active.end()) compare(*std::prev(next), *next);
  };
  for (size_t i : comes) {
    row = shrunk[i].q.begin;
    while (shrunk[goes[gone]].q.end <= row) remove_next();
    const auto [it, fresh] = active.insert(i);
    if (!fresh) compare(*it, i);  // both begin with the same key
    place[i] = it;
    if (it != active.begin()) compare(*std::prev(it), i);
    if (std::next(it) != active.end()) compare(i, *std::next(it));
  }
  while (gone < goes.size()) remove_next();
}

}  // namespace

MaskRule parse_mask_rule(std::string_view text) {
  const auto fail = [&]() -> MaskRule {
    throw Error(ErrorCode::usage, "unknown mask '" + std::string(text) +
                                      "'; use full, causal, window:W or causal+window:W with W from 1 to " +
                                      std::to_string(kMaxTokens));
  };
  MaskRule rule;
  std::string_view rest = text;
  if (rest == "full") return rule;
  if (rest == "causal") return {.causal = true};
  if (rest.starts_with("causal+")) {
    rule.causal = true;
    rest.remove_prefix(7);
  }
  if (!rest.starts_with("window:")) return fail();
  rest.remove_prefix(7);
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), rule.window);
  if (error != std::errc() || end != rest.data() + rest.size()) return fail();
  if (rule.window < 1 || rule.window > kMaxTokens) return fail();
  return rule;
}

std::string to_string(const MaskRule& rule) {
  if (rule.window == 0) return rule.causal ? "causal" : "full";
  return (rule.causal ? "causal+window:" : "window:") + std::to_string(rule.window);
}

Mask::Mask(int64_t queries, int64_t keys, std::vector<BandRectangle> bands)
    : queries_(queries), keys_(keys), bands_(std::move(bands)) {
  std::erase_if(bands_, [](const BandRectangle& band) { return band.empty(); });
  std::sort(bands_.begin(), bands_.end(), [](const BandRectangle& a, const BandRectangle& b) {
    const auto key = [](const BandRectangle& x) { return std::tuple(x.q.begin, x.k.begin, x.q.end, x.k.end, x.lo); };
    return key(a) < key(b);
  });
  int64_t reach = 0;
  reach_.reserve(bands_.size());
  for (const BandRectangle& band : bands_) {
    area_ += band.area();
    reach = std::max(reach, band.q.end);
    reach_.push_back(reach);
  }
  for (size_t i = 1; i < bands_.size(); ++i) {
    keys_ordered_ &= bands_[i - 1].k.begin <= bands_[i].k.begin && bands_[i - 1].k.end <= bands_[i].k.end;
  }
}

Mask Mask::of(int64_t tokens, MaskRule rule) {
  check_tokens(tokens, "tokens");
  check_rule(rule);
  return Mask(tokens, tokens, {band_of({0, tokens}, rule)});
}

Mask Mask::documents(const std::vector<int64_t>& lengths, MaskRule rule) {
  const std::vector<Range> ranges = ranges_of(lengths);
  check_rule(rule);
  std::vector<BandRectangle> bands;
  bands.reserve(ranges.size());
  for (const Range& range : ranges) bands.push_back(band_of(range, rule));
  const int64_t tokens = ranges.back().end;
  return Mask(tokens, tokens, std::move(bands));
}

Mask Mask::cross(int64_t queries, int64_t keys) {
  check_tokens(queries, "queries");
  check_tokens(keys, "keys");
  return Mask(queries, keys, {{.q = {0, queries}, .k = {0, keys}}});
}

Mask Mask::cross_documents(const std::vector<int64_t>& query_lengths, const std::vector<int64_t>& key_lengths) {
  const std::vector<Range> queries = ranges_of(query_lengths), keys = ranges_of(key_lengths);
  if (queries.size() != keys.size()) {
    throw Error(ErrorCode::usage, std::to_string(queries.size()) + " query documents but " +
                                      std::to_string(keys.size()) + " key documents; give as many of both");
  }
  std::vector<BandRectangle> bands;
  bands.reserve(queries.size());
  for (size_t i = 0; i < queries.size(); ++i) bands.push_back({.q = queries[i], .k = keys[i]});
  return Mask(queries.back().end, keys.back().end, std::move(bands));
}

Mask Mask::from_bands(int64_t queries, int64_t keys, std::vector<BandRectangle> bands) {
  check_tokens(queries, "queries");
  check_tokens(keys, "keys");
  for (BandRectangle& band : bands) {
    // Beyond these nothing changes, and sums could overflow.
    band.lo = std::clamp(band.lo, kUnboundedBelow, kUnboundedAbove);
    band.hi = std::clamp(band.hi, kUnboundedBelow, kUnboundedAbove);
    const bool inside = band.q.begin >= 0 && band.q.end <= queries && band.k.begin >= 0 && band.k.end <= keys;
    if (!band.q.empty() && !band.k.empty() && !inside) {
      throw Error(ErrorCode::usage, "mask rectangle q " + std::to_string(band.q.begin) + ".." +
                                        std::to_string(band.q.end) + ", k " + std::to_string(band.k.begin) + ".." +
                                        std::to_string(band.k.end) + " lies outside " + std::to_string(queries) +
                                        " queries x " + std::to_string(keys) + " keys");
    }
  }
  check_disjoint(bands);
  return Mask(queries, keys, std::move(bands));
}

std::span<const BandRectangle> Mask::find_bands_meeting(Range q, Range k) const {
  auto first = bands_.begin() + (std::upper_bound(reach_.begin(), reach_.end(), q.begin) - reach_.begin());
  auto last = std::lower_bound(first, bands_.end(), q.end,
                               [](const BandRectangle& band, int64_t end) { return band.q.begin < end; });
  if (keys_ordered_) {
    first = std::lower_bound(first, last, k.begin,
                             [](const BandRectangle& band, int64_t begin) { return band.k.end <= begin; });
    last =
        std::lower_bound(first, last, k.end, [](const BandRectangle& band, int64_t end) { return band.k.begin < end; });
  }
  return {first, last};
}

Mask Mask::transposed() const {
  std::vector<BandRectangle> bands;
  bands.reserve(bands_.size());
  for (const BandRectangle& band : bands_) {
    bands.push_back({.q = band.k, .k = band.q, .lo = -band.hi, .hi = -band.lo});
  }
  return Mask(keys_, queries_, std::move(bands));
}

bool Mask::covers(int64_t query, int64_t key) const {
  for (const BandRectangle& band : bands_meeting({query, query + 1}, {key, key + 1})) {
    if (band.contains(query, key)) return true;
  }
  return false;
}

bool Mask::includes(const Mask& other) const {
  if (other.queries_ > queries_ || other.keys_ > keys_) return false;
  // Bands of one mask are disjoint, so `other` lies inside exactly when the common area is all of it.
  int64_t common = 0;
  for (const BandRectangle& theirs : other.bands_) {
    for (const BandRectangle& ours : bands_meeting(theirs.q, theirs.k)) {
      BandRectangle both = cut(ours, theirs.q, theirs.k);
      both.lo = std::max(ours.lo, theirs.lo);
      both.hi = std::min(ours.hi, theirs.hi);
      common += both.area();
    }
  }
  return common == other.area_;
}

}  // namespace weft
