#include "weft/schedule/set_table.h"

#include <memory>

#include "weft/base/error.h"

namespace weft {
namespace {

uint64_t mix(uint64_t h) {
  h ^= h >> 32;
  h *= 0xd6e8feb86659fd93u;
  h ^= h >> 32;
  return h;
}

uint64_t hash_of(const IntervalSet& set) {
  uint64_t h = 0x9e3779b97f4a7c15u;
  for (const Range& range : set.ranges()) {
    h = mix(h ^ static_cast<uint64_t>(range.begin)) + 0x9e3779b97f4a7c15u;
    h = mix(h ^ static_cast<uint64_t>(range.end));
  }
  return h;
}

}  // namespace

SetTable::SetTable() {
  static std::atomic<uint32_t> made = 0;
  serial_ = ++made;
  indices_.push_back(std::make_unique<Index>(1 << 10));
  index_.store(indices_.back().get(), std::memory_order_release);
  intern({});
}

SetTable::~SetTable() {
  for (uint32_t id = 0; id < count(); ++id) std::destroy_at(&entry(SetId{id}));
  for (auto& page : pages_) delete page.load(std::memory_order_relaxed);
}

std::atomic<uint32_t>& SetTable::find(const Index& index, uint64_t hash, const IntervalSet& set) const {
  for (size_t place = hash & index.mask;; place = (place + 1) & index.mask) {
    std::atomic<uint32_t>& at = index.places[place];
    const uint32_t found = at.load(std::memory_order_acquire);
    if (found == 0) return at;
    const Entry& known = entry(SetId{found - 1});
    if (known.hash == hash && known.set == set) return at;
  }
}

SetId SetTable::intern(const IntervalSet& set) {
  const uint64_t hash = hash_of(set);
  const uint32_t found = find(*index_.load(std::memory_order_acquire), hash, set).load(std::memory_order_acquire);
  return found != 0 ? SetId{found - 1} : add(hash, set);
}

SetId SetTable::add(uint64_t hash, const IntervalSet& set) {
  const std::lock_guard lock(adding_);
  std::atomic<uint32_t>& free = find(*indices_.back(), hash, set);
  if (const uint32_t found = free.load(std::memory_order_relaxed)) return SetId{found - 1};  // another thread was first
  const uint32_t id = count_.load(std::memory_order_relaxed);
  const Place at = place_of(SetId{id});
  if (at.page >= kPages) throw Error(ErrorCode::unsupported, "too many different sets of tokens in one schedule");
  if (at.offset == 0) pages_[at.page].store(new Page(size_t{kFirstPage} << at.page), std::memory_order_release);
  Page& page = *pages_[at.page].load(std::memory_order_relaxed);
  std::construct_at(&page.entries[at.offset], Entry{set, hash});
  page.sizes[at.offset] = set.size();
  count_.store(id + 1, std::memory_order_release);
  free.store(id + 1, std::memory_order_release);
  if (2 * size_t{id + 1} > indices_.back()->mask) grow();
  return SetId{id};
}

void SetTable::grow() {
  auto larger = std::make_unique<Index>(2 * (indices_.back()->mask + 1));
  for (uint32_t id = 0; id < count_.load(std::memory_order_relaxed); ++id) {
    size_t place = entry(SetId{id}).hash & larger->mask;
    while (larger->places[place].load(std::memory_order_relaxed) != 0) place = (place + 1) & larger->mask;
    larger->places[place].store(id + 1, std::memory_order_relaxed);
  }
  indices_.push_back(std::move(larger));
  index_.store(indices_.back().get(), std::memory_order_release);
}

}  // namespace weft
