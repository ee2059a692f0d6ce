// Sets that several threads intern together: equal sets have equal ids, whoever named them first.
//
// Looking up takes no lock; a set that is new is put in under one. An id may be used by any thread that learnt it in an
// ordered way: from its own intern(), or from another thread through a lock. Threads work with a SetPool each, which adds
// the algebra; the table is what their pools have in common.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "weft/base/interval_set.h"

namespace weft {

enum class SetId : uint32_t { empty = 0 };

class SetTable {
 public:
  SetTable();
  ~SetTable();
  SetTable(const SetTable&) = delete;
  SetTable& operator=(const SetTable&) = delete;

  SetId intern(const IntervalSet& set);
  // The set of an id. The reference stays valid as long as the table.
  const IntervalSet& operator[](SetId id) const { return entry(id).set; }
  // Number of members, kept beside the set.
  int64_t size(SetId id) const {
    const Place at = place_of(id);
    return pages_[at.page].load(std::memory_order_acquire)->sizes[at.offset];
  }
  size_t count() const { return count_.load(std::memory_order_acquire); }
  // No two tables of this process have the same.
  uint32_t serial() const { return serial_; }

 private:
  struct Entry {
    IntervalSet set;
    uint64_t hash = 0;
  };
  // Entries lie in pages, so that they never move; each page is twice as long as the one before it. What of a page is
  // not used yet is not touched.
  struct Page {
    explicit Page(size_t length)
        : storage(std::make_unique_for_overwrite<std::byte[]>(length * sizeof(Entry))),
          entries(reinterpret_cast<Entry*>(storage.get())),
          sizes(std::make_unique_for_overwrite<int64_t[]>(length)) {}
    std::unique_ptr<std::byte[]> storage;
    Entry* entries;
    std::unique_ptr<int64_t[]> sizes;
  };
  struct Place {
    size_t page, offset;
  };
  static constexpr uint32_t kFirstPage = 256;
  static constexpr size_t kPages = 25;
  static Place place_of(SetId id) {
    const uint64_t shifted = uint64_t{static_cast<uint32_t>(id)} + kFirstPage;
    const auto page = static_cast<size_t>(std::bit_width(shifted) - std::bit_width(kFirstPage));
    return {page, shifted - (uint64_t{kFirstPage} << page)};
  }
  const Entry& entry(SetId id) const {
    const Place at = place_of(id);
    return pages_[at.page].load(std::memory_order_acquire)->entries[at.offset];
  }

  // Open addressing: id + 1, or 0 where free.
  struct Index {
    explicit Index(size_t length) : mask(length - 1), places(new std::atomic<uint32_t>[length]()) {}
    size_t mask;
    std::unique_ptr<std::atomic<uint32_t>[]> places;
  };
  // Where the set is in the index, or the free place where it would be.
  std::atomic<uint32_t>& find(const Index& index, uint64_t hash, const IntervalSet& set) const;
  SetId add(uint64_t hash, const IntervalSet& set);
  void grow();

  uint32_t serial_;
  std::array<std::atomic<Page*>, kPages> pages_{};
  std::atomic<uint32_t> count_ = 0;
  std::atomic<const Index*> index_ = nullptr;
  std::mutex adding_;
  std::vector<std::unique_ptr<Index>> indices_;  // the last is in use; readers may still be in the ones before
};

// A set that belongs to a schedule's plan and that many ranks name in many steps. It keeps the id that a table gave it, so
// that naming it again looks nothing up. Threads may name it together, also in different tables.
// A plan keeps many next to each other and mostly their ids are read: the intervals lie elsewhere.
class NamedSet {
 public:
  explicit NamedSet(IntervalSet set) : set_(std::make_shared<const IntervalSet>(std::move(set))) {}
  NamedSet(const NamedSet& other) : set_(other.set_) {}
  NamedSet& operator=(NamedSet other) noexcept {
    set_ = std::move(other.set_);
    known_ = 0;
    return *this;
  }

  const IntervalSet& intervals() const { return *set_; }
  SetId id(SetTable& table) const {
    const uint64_t known = known_.load(std::memory_order_acquire);
    if (known >> 32 == table.serial()) return SetId{static_cast<uint32_t>(known)};
    const SetId id = table.intern(*set_);
    known_.store(uint64_t{table.serial()} << 32 | static_cast<uint32_t>(id), std::memory_order_release);
    return id;
  }

 private:
  std::shared_ptr<const IntervalSet> set_;
  mutable std::atomic<uint64_t> known_ = 0;  // serial of a table, id of the set in it
};

}  // namespace weft
