// Values in memory: what one rank holds while its program runs. Private to this folder.
//
// A value has one tensor [rows, heads, columns] per field; its rows are the value's tokens in slot
// order. The tensor may be the rank's own buffer, memory of the caller, or memory borrowed from
// another rank; strides say how it lies there.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "weft/execute/buffer_pool.h"
#include "weft/kernels/kernels.h"
#include "weft/schedule/instruction.h"
#include "weft/schedule/pieces.h"
#include "weft/transport/transport.h"

namespace weft::execute_internal {

// One field of a value.
struct FieldMemory {
  std::byte* data = nullptr;
  DType type = DType::fp32;
  int64_t row_stride = 0;   // in elements
  int64_t head_stride = 0;  // in elements
  int64_t sharing = 1;      // so many heads, following one another, have a row in common
  Lending lending = Lending::lasting;
  bool callers = false;               // may not be replaced by a loan: the caller wants the result here
  std::shared_ptr<const void> owner;  // null: the caller's

  std::byte* at(int64_t row, int64_t head) const {
    return data + (row * row_stride + head * head_stride) * size_of(type);
  }
  kernels::View view(int64_t row = 0, int64_t head = 0) const { return {at(row, head), type, row_stride, head_stride}; }
};

// Bytes that count as live while this exists. One thread.
class Charge {
 public:
  struct Meter {
    int64_t live = 0;
    int64_t peak = 0;
  };
  Charge(std::shared_ptr<Meter> meter, int64_t bytes) : meter_(std::move(meter)), bytes_(bytes) {
    meter_->live += bytes_;
    if (meter_->live > meter_->peak) meter_->peak = meter_->live;
  }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;
  ~Charge() { meter_->live -= bytes_; }

 private:
  std::shared_ptr<Meter> meter_;
  int64_t bytes_;
};

// The elements of a value that have been written, as disjoint products.
class Written {
 public:
  void clear() { pieces_.clear(); }
  // Adds a slice. False, and nothing is added, when some element of it was written already.
  bool add(SetPool& pool, const Slice& slice);
  bool covers(SetPool& pool, const Slice& slice) const;

 private:
  struct Piece {
    Fields fields;
    SetId tokens{};
    SetId heads{};
  };
  bool covers_from(SetPool& pool, size_t from, Piece rest) const;
  std::vector<Piece> pieces_;
};

struct RankValue {
  bool exists = false;
  Form form{};
  Slice all;                       // its own id, tokens, heads and fields
  SetId columns{};                 // of rows of scores: their keys
  const Pieces* pieces = nullptr;  // of a value in pieces
  bool needs_identity = false;     // accumulating, and memory not yet filled with (0, -inf)
  Written written;                 // whole values
  std::shared_ptr<Charge> charge;
  std::array<FieldMemory, kFieldCount> fields;

  const FieldMemory& field(Field f) const { return fields[static_cast<size_t>(f)]; }
  FieldMemory& field(Field f) { return fields[static_cast<size_t>(f)]; }
};

// Some rows of a slice that lie one after the other in every value concerned.
struct RowRun {
  Range slots;
  int64_t row = 0;  // of slots.begin
  int64_t size() const { return slots.size(); }
};

// The rows of a slice of a value among all of its rows, as these are numbered by: tokens, but where the value is of a run of
// tokens one row, or one for each of its pieces. The rows of tokens may be many ranges, and are the pool's own set; others are put
// into `room`.
inline const IntervalSet& rows_in(const SetPool& pool, const RankValue& value, const Slice& slice,
                                  IntervalSet&& room = {}) {
  if ((slice.fields & kStateFields).empty()) return pool[slice.tokens];
  if (!value.pieces) return room = Range{0, 1};
  const Range run = pool[value.all.tokens].hull(), part = pool[slice.tokens].hull();
  return room = Range{value.pieces->number(run, part.begin), value.pieces->number(run, part.end - 1) + 1};
}

// Where the members of `part`, which are all members of `all`, stand in the list of `all`: maximal
// runs in order. Linear in the number of intervals.
std::vector<RowRun> runs_of(const IntervalSet& part, const IntervalSet& all);

// Calls f(first, rows) with an array of K first rows: the longest pieces of `part` whose members
// follow each other in each of the K sets, all of which contain `part`.
template <size_t K, typename F>
void for_each_common_run(const IntervalSet& part, const std::array<const IntervalSet*, K>& sets, F&& f) {
  std::array<std::vector<RowRun>, K> runs;
  for (size_t i = 0; i < K; ++i) runs[i] = runs_of(part, *sets[i]);
  // Each list cuts the same members 0 .. part.size(); walk all cuts together.
  std::array<size_t, K> at{};
  std::array<int64_t, K> used{};
  std::array<int64_t, K> begin{};
  int64_t size = 0;  // of the run being put together
  while (at[0] < runs[0].size()) {
    int64_t rows = runs[0][at[0]].size() - used[0];
    for (size_t i = 1; i < K; ++i) rows = std::min(rows, runs[i][at[i]].size() - used[i]);
    std::array<int64_t, K> first;
    bool follows = size > 0;
    for (size_t i = 0; i < K; ++i) {
      first[i] = runs[i][at[i]].row + used[i];
      follows &= first[i] == begin[i] + size;
      used[i] += rows;
      if (used[i] < runs[i][at[i]].size()) continue;
      used[i] = 0;
      ++at[i];
    }
    if (!follows) {
      if (size > 0) f(begin, size);
      begin = first;
      size = 0;
    }
    size += rows;
  }
  if (size > 0) f(begin, size);
}

// The rows that a field has for some of its heads, by number: those of the heads, or of the groups that share them.
inline const IntervalSet& heads_in(SetPool& pool, const FieldMemory& field, SetId heads) {
  return pool[pool.contract(heads, field.sharing)];
}

// The memory of a slice as regions, in row-major order of (token, head, column).
std::vector<Region> regions_of(SetPool& pool, const RankValue& value, const Slice& slice, Field field, int64_t columns);

}  // namespace weft::execute_internal
