// How a run makes, checks and ends its values.
#include <algorithm>
#include <limits>

#include "weft/execute/run.h"

namespace weft::execute_internal {
namespace {

constexpr size_t kMaxValues = 1u << 24;

bool is_key_side(Fields fields) { return !(fields & kKeyFields).empty(); }

std::string number(ValueId id) { return std::to_string(static_cast<size_t>(id)); }

void copy_rows(const Memory& memory, SetPool& sets, const Problem& problem, const RankValue& from, const RankValue& to,
               const Slice& slice) {
  slice.fields.for_each([&](Field f) {
    const int64_t columns = problem.columns_of(f);
    memory.copy(regions_of(sets, from, slice, f, columns), regions_of(sets, to, slice, f, columns));
  });
}

}  // namespace

// ---- checks

RankValue& Run::find(const Slice& slice, const char* role) {
  const size_t id = static_cast<size_t>(slice.value);
  if (id >= values_.size() || !values_[id].exists) {
    refuse(std::string(role) + ": value " + number(slice.value) + " does not exist here");
  }
  RankValue& value = values_[id];
  if (slice.fields.empty() || !value.all.fields.includes(slice.fields) ||
      !sets_.includes(value.all.tokens, slice.tokens) || !sets_.includes(value.all.heads, slice.heads) ||
      (!(slice.fields & kStateFields).empty() && !value.pieces && slice.tokens != value.all.tokens)) {
    refuse(std::string(role) + ": slice " + describe(slice) + " is not inside value " + number(slice.value) + " (" +
           describe(value.all) + ")");
  }
  return value;
}

RankValue& Run::whole(const Slice& slice, const char* role, Fields needed) {
  RankValue& value = find(slice, role);
  if (value.form != Form::whole || !slice.fields.includes(needed)) {
    refuse(std::string(role) + " needs whole " + to_string(needed) + ", but value " + number(slice.value) + " is " +
           name_of(value.form) + " " + to_string(slice.fields));
  }
  if (!value.written.covers(sets_, slice.only(needed))) {
    refuse(std::string(role) + ": " + describe(slice.only(needed)) + " is used before it is defined");
  }
  return value;
}

RankValue& Run::accumulator(const Slice& slice, const char* role) {
  RankValue& value = find(slice, role);
  if (value.form != Form::accumulating || slice.fields != value.all.fields) {
    refuse(std::string(role) + " needs all fields of an accumulating value, but is given " + to_string(slice.fields) +
           " of value " + number(slice.value));
  }
  fill_identity(value);
  return value;
}

void Run::need_same_rows(const Slice& a, const Slice& b, const char* what) {
  if (a.tokens == b.tokens && a.heads == b.heads) return;
  refuse(std::string(what) + " of different rows: " + describe(a) + " and " + describe(b));
}

void Run::need_shared_rows(const Slice& slice, SetId all, const char* role) {
  if (!cut_shared_rows(sets_, problem_, slice.fields, slice.heads, all)) return;
  refuse(std::string(role) + ": " + describe(slice) + " lacks some of the heads " + to_string(sets_[all]) +
         " that share its rows");
}

void Run::write(RankValue& value, const Slice& slice) {
  if (!value.written.add(sets_, slice)) refuse(describe(slice) + " is written twice");
}

// ---- memory

// Also finds the columns of rows of scores.
int64_t Run::bytes_of(RankValue& value) {
  if (!kScoreFields.includes(value.all.fields)) {
    return rows_in(sets_, value, value.all).size() *
           bytes_in_heads(sets_, problem_, value.all.heads, value.all.fields, value.form);
  }
  const IntervalSet& queries = sets_[value.all.tokens];
  const std::optional<int64_t> bytes = problem_.bytes_of_scores(queries, sets_.size(value.all.heads));
  if (!bytes) refuse("more than 2^50 scores in one value");
  value.columns = sets_.intern(problem_.columns_of_scores(queries));
  return *bytes;
}

void Run::allocate(RankValue& value, Field field) {
  FieldMemory& memory = value.field(field);
  const int64_t columns = kScoreFields.has(field) ? sets_.size(value.columns) : problem_.columns_of(field);
  memory.type = problem_.type_of(field, value.form);
  memory.sharing = problem_.sharing(field);
  memory.head_stride = columns;
  memory.row_stride = heads_in(sets_, memory, value.all.heads).size() * columns;
  memory.lending = Lending::lasting;
  const int64_t bytes = rows_in(sets_, value, value.all).size() * memory.row_stride * size_of(memory.type);
  auto buffer = c_.pool.take(bytes);
  memory.data = buffer.get();
  memory.owner = std::move(buffer);
  if (c_.options.poison) fill_with_nan(c_.pool.memory(), memory.data, bytes);
}

void Run::fill_identity(RankValue& value) {
  if (!value.needs_identity) return;
  value.needs_identity = false;
  value.all.fields.for_each([&](Field f) {
    const FieldMemory& memory = value.field(f);
    const int64_t elements = sets_.size(value.all.tokens) * memory.row_stride;
    if (is_exact_sum(memory.type)) {
      c_.pool.memory().set(memory.data, elements * size_of(memory.type), 0);
      return;
    }
    const bool of_scores = f == Field::lse || f == Field::scores;
    c_.kernels.fill({memory.data, memory.type, 0, 0}, of_scores ? -std::numeric_limits<double>::infinity() : 0,
                    elements);
  });
}

// ---- create and input

void Run::create(const Instruction& i) {
  if (i.targets != 1) refuse("makes one value, not " + std::to_string(i.targets));
  const Slice& slice = block_.targets(i)[0];
  const size_t id = static_cast<size_t>(slice.value);
  if (id >= kMaxValues) refuse("value number " + number(slice.value) + " is too large");
  const bool key_side = is_key_side(slice.fields);
  const Form form = i.op == Op::input ? Form::whole : i.form;
  if (!may_hold(form, slice.fields)) refuse("a value cannot hold " + to_string(slice.fields));
  if (slice.tokens == SetId::empty || slice.heads == SetId::empty ||
      !sets_.includes(key_side ? c_.all_keys : c_.all_queries, slice.tokens) ||
      !sets_.includes(key_side ? c_.all_kv_heads : c_.all_heads, slice.heads)) {
    refuse("value " + number(slice.value) + " (" + describe(slice) + ") is empty or lies outside of the problem");
  }
  if (!(slice.fields & kStateFields).empty() && sets_[slice.tokens].ranges().size() != 1) {
    refuse("a state is of neighbouring tokens, not of " + to_string(sets_[slice.tokens]));
  }
  if (!(slice.fields & kDocumentFields).empty() &&
      !(sets_[slice.tokens] == problem_.rows_among(sets_[slice.tokens], slice.fields))) {
    refuse(to_string(slice.fields) + " has no rows for some of the tokens " + to_string(sets_[slice.tokens]));
  }
  if (form == Form::whole && !(slice.fields & (Field::dq | Field::dk)).empty())
    need_shared_rows(slice, key_side ? c_.all_kv_heads : c_.all_heads, "a whole gradient");
  if (id >= values_.size()) values_.resize(id + 1);
  RankValue& value = values_[id];
  if (value.exists) refuse("value " + number(slice.value) + " is created twice");

  value = {};
  value.exists = true;
  value.form = form;
  value.all = slice;
  value.pieces = form == Form::pieces ? &c_.pieces : nullptr;
  value.charge = std::make_shared<Charge>(meter_, bytes_of(value));
  if (i.op == Op::input) return input(slice, value);
  value.needs_identity = form == Form::accumulating;
  const bool in_place = becomes_result(slice);
  slice.fields.for_each([&](Field f) {
    if (in_place) {
      value.field(f) = result_memory(f).field(f);
    } else {
      allocate(value, f);
    }
  });
}

void Run::input(const Slice& slice, RankValue& value) {
  const bool backward = phase_ == Phase::backward;
  const SetId mine = c_.rows_of_caller(slice.fields);
  if (!sets_.includes(mine, slice.tokens)) {
    refuse("the caller gives only this rank's own tokens, not " + to_string(sets_[slice.tokens]));
  }
  // The caller's tensor, and in the value the same memory, if that can be.
  RankValue given;
  given.all = {slice.value, mine, c_.heads_of_caller(slice.fields), slice.fields};
  const bool same = slice.tokens == given.all.tokens && slice.heads == given.all.heads;
  slice.fields.for_each([&](Field f) {
    const bool given_now = backward || (f != Field::out && f != Field::lse);
    const ConstTensor* const found = given_now ? inputs_.of(f) : nullptr;
    if (!found || !found->data) refuse(std::string("the caller gave no ") + name_of(f));
    const ConstTensor& tensor = *found;
    const int64_t columns = problem_.columns_of(f);
    FieldMemory& memory = given.field(f);
    memory.sharing = problem_.sharing(f);
    const int64_t row = columns * heads_in(sets_, memory, given.all.heads).size();
    memory.data = static_cast<std::byte*>(const_cast<void*>(tensor.data));  // never written
    memory.type = problem_.type_of(f, Form::whole);
    memory.row_stride = tensor.row_stride != 0 ? tensor.row_stride : row;
    memory.head_stride = columns;
    memory.lending = Lending::phase;
    if (same) {
      value.field(f) = memory;
    } else {
      allocate(value, f);
    }
  });
  if (!same) copy_rows(c_.pool.memory(), sets_, problem_, given, value, slice);
  write(value, slice);
}

// ---- drop

void Run::drop(const Instruction& i) {
  for (const Slice& slice : block_.sources(i)) {
    const size_t id = static_cast<size_t>(slice.value);
    if (id >= values_.size() || !values_[id].exists) {
      refuse("value " + number(slice.value) + " does not exist here");
    }
    values_[id] = {};
    let_go(slice.value);
  }
}

// ---- results

RankValue& Run::result_memory(Field field) {
  RankValue& results = result_memory_[static_cast<size_t>(field)];
  results.all.tokens = c_.rows_of_caller(field);
  results.all.heads = c_.heads_of_caller(field);
  FieldMemory& memory = results.field(field);
  if (memory.data) return results;
  allocate_result(results, field, static_cast<std::byte*>(destinations_.of(field)));
  return results;
}

// In the caller's memory, or in a buffer that will be the caller's.
void Run::allocate_result(RankValue& results, Field field, std::byte* destination) {
  FieldMemory& memory = results.field(field);
  memory.type = problem_.type_of(field, Form::whole);
  memory.sharing = problem_.sharing(field);
  memory.head_stride = problem_.columns_of(field);
  memory.row_stride = memory.head_stride * heads_in(sets_, memory, results.all.heads).size();
  const int64_t bytes = sets_.size(results.all.tokens) * memory.row_stride * size_of(memory.type);
  std::shared_ptr<std::byte> buffer = destination ? nullptr : c_.pool.take(bytes);
  memory.data = destination ? destination : buffer.get();
  memory.owner = std::move(buffer);
  memory.lending = Lending::phase;
  memory.callers = true;
  if (c_.options.poison) fill_with_nan(c_.pool.memory(), memory.data, bytes);
}

bool Run::becomes_result(const Slice& slice) const {
  const Fields wanted = problem_.results_of(phase_ == Phase::backward);
  if (current_->form != Form::whole || !wanted.includes(slice.fields) ||
      slice.tokens != c_.rows_of_caller(slice.fields) || slice.heads != c_.heads_of_caller(slice.fields)) {
    return false;
  }
  for (size_t n = next_; n < block_.instructions.size(); ++n) {
    const Instruction& later = block_.instructions[n];
    if (later.op != Op::result && later.op != Op::drop) continue;
    for (const Slice& source : block_.sources(later)) {
      if (source.value == slice.value) return later.op == Op::result && source == slice;
    }
  }
  return false;
}

void Run::result(const Instruction& i) {
  const Fields wanted = problem_.results_of(phase_ == Phase::backward);
  for (const Slice& slice : block_.sources(i)) {
    const RankValue& value = whole(slice, "result", slice.fields);
    need_shared_rows(slice, value.all.heads, "result");
    if (!wanted.includes(slice.fields)) {
      refuse(to_string(slice.fields) + " is no result of this phase");
    }
    if (!sets_.includes(c_.rows_of_caller(slice.fields), slice.tokens)) {
      refuse("result " + describe(slice) + " does not belong to this rank");
    }
    if (!results_.add(sets_, {ValueId{}, slice.tokens, slice.heads, slice.fields})) {
      refuse("result " + describe(slice) + " is given twice");
    }
    slice.fields.for_each([&](Field f) {
      RankValue& results = result_memory(f);
      if (value.field(f).data == results.field(f).data) return;  // was made in place
      copy_rows(c_.pool.memory(), sets_, problem_, value, results, slice.only(f));
    });
  }
}

}  // namespace weft::execute_internal
