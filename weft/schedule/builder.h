// Builder: how a method writes a rank's program.
//
//   Steps write(std::shared_ptr<const Problem> problem, int rank, Builder& b) {
//     Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
//     Value acc = b.partial(q);
//     b.attend(q, kv, acc);
//     b.result(b.finish(acc));
//     co_yield Step{};
//   }
//
// A Value is a handle: when the last handle to a value goes, the builder writes its `drop`. Whatever is empty
// vanishes: an instruction without rows, an attend without allowed pairs, a part without tokens, an exchange without
// parts. So a writer needs no special case for idle ranks, short shards or unused heads.
#pragma once

#include <initializer_list>
#include <utility>
#include <vector>

#include "weft/schedule/schedule.h"

namespace weft {

class Builder;

// An interned set of token slots or heads. Cheap to copy.
class Set {
 public:
  Set() = default;
  Set(SetPool& pool, SetId id) : pool_(&pool), id_(id) {}
  SetId id() const { return id_; }
  bool empty() const { return id_ == SetId::empty; }
  int64_t size() const { return empty() ? 0 : pool_->size(id_); }
  // Valid as long as the pool.
  const IntervalSet& intervals() const {
    static const IntervalSet none;
    return empty() ? none : (*pool_)[id_];
  }
  friend Set operator|(Set a, Set b) { return a.empty() ? b : Set(*a.pool_, a.pool_->unite(a.id_, b.id_)); }
  friend Set operator&(Set a, Set b) { return a.empty() ? a : Set(*a.pool_, a.pool_->intersect(a.id_, b.id_)); }
  friend Set operator-(Set a, Set b) { return a.empty() ? a : Set(*a.pool_, a.pool_->subtract(a.id_, b.id_)); }
  friend bool operator==(Set a, Set b) { return a.id_ == b.id_; }

 private:
  SetPool* pool_ = nullptr;
  SetId id_ = SetId::empty;
};

// A handle to a value of this rank. Copies share it; the last one to go drops it. Default: the empty value, on which
// every operation vanishes.
class Value {
 public:
  Value() = default;
  Value(const Value& other);
  Value(Value&& other) noexcept;
  Value& operator=(Value other) noexcept;
  ~Value();

  bool empty() const { return builder_ == nullptr; }
  Set tokens() const;
  Set heads() const;
  Fields fields() const;

  operator Slice() const;                 // all of it
  Slice operator[](Set tokens) const;     // these rows
  Slice at(Set tokens, Set heads) const;  // these rows and heads
  Slice only(Fields fields) const { return Slice(*this).only(fields); }
  void reset() { *this = Value(); }  // drop this handle now

 private:
  friend class Builder;
  Value(Builder* builder, ValueId id) : builder_(builder), id_(id) {}

  Builder* builder_ = nullptr;
  ValueId id_{};
};

// Operands of one call: a slice, a value, or a list. Only a view: lists must live until the call returns.
class Slices {
 public:
  Slices(const Slice& slice) : one_(slice), data_(&one_), size_(1) {}
  Slices(const Value& value) : Slices(static_cast<Slice>(value)) {}
  Slices(std::initializer_list<Slice> list) : size_(list.size()) { data_ = list.begin(); }
  Slices(const std::vector<Slice>& list) : data_(list.data()), size_(list.size()) {}
  Slices(const Slices&) = delete;
  Slices& operator=(const Slices&) = delete;
  const Slice* begin() const { return data_; }
  const Slice* end() const { return data_ + size_; }

 private:
  Slice one_;
  const Slice* data_;
  size_t size_;
};

// An exchange being put together; issue() writes it. Parts may be named in any order of peers.
class Exchange {
 public:
  Exchange& send(int peer, const Slice& slice);
  Exchange& receive(int peer, const Slice& slice, Combine combine = Combine::copy);
  void issue();

 private:
  friend class Builder;
  Exchange(Builder& builder, int lane) : builder_(&builder), lane_(lane) {}
  Builder* builder_;
  int lane_;
};

class Builder {
 public:
  Builder(const Problem& problem, SetPool& pool, int rank);
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  const Problem& problem() const { return problem_; }
  SetPool& pool() { return pool_; }
  int rank() const { return rank_; }

  // ---- sets
  Set set(const IntervalSet& intervals) { return Set(pool_, pool_.intern(intervals)); }
  Set set(const NamedSet& named) { return Set(pool_, pool_.intern(named)); }
  Set queries_of(int rank) { return set(problem_.query_layout.shard(rank)); }
  Set keys_of(int rank) { return set(problem_.key_layout.shard(rank)); }
  Set all_heads() const { return all_heads_; }
  Set all_kv_heads() const { return all_kv_heads_; }
  // The rows that a tensor has among these tokens: all, or the documents' first or last ones.
  Set rows(Fields fields, Set tokens);
  // The kv heads that these query heads read.
  Set kv_heads_of(Set heads) { return Set(pool_, pool_.contract(heads.id(), problem_.group())); }
  // Those of `keys` that some of `queries` see, and the other way round.
  Set keys_needed(const IntervalSet& queries, const IntervalSet& keys) { return keys_needed(Cover(&queries), keys); }
  Set keys_needed(const Cover& queries, const IntervalSet& keys);
  Set queries_needed(const IntervalSet& queries, const IntervalSet& keys) {
    return queries_needed(queries, Cover(&keys));
  }
  Set queries_needed(const IntervalSet& queries, const Cover& keys);

  // ---- values
  // The caller's tensors on this rank: all heads of its own tokens. Fields of one side. Empty where the problem has no such
  // tensor, or no row of it is the rank's.
  Value input(Fields fields);
  // Space for rows that will be received: each element is written once.
  Value whole(Fields fields, Set tokens, Set heads);
  // The same for states of the pieces of a run: state, dstate or transition.
  Value pieces(Fields fields, Set run, Set heads);
  // (out, lse) = (0, -inf) for the rows and heads of these queries.
  Value partial(const Slice& queries);
  Value partial(Set tokens, Set heads);
  // Zero sums: Field::dq, or Field::dk and Field::dv together or alone; Field::out, Field::dprobs; Field::scores without
  // a key.
  Value sums(Fields fields, Set tokens, Set heads);
  // Hands finished rows to the caller.
  void result(const Slice& slice);

  // ---- compute
  void attend(const Slices& queries, const Slices& keys, const Slices& partial);
  // `bundle` holds dout, lse and delta of the query rows; dq or dkv may be {}.
  void attend_backward(const Slices& queries, const Slices& keys, const Slices& bundle, const Slices& dq,
                       const Slices& dkv);
  Value prepare_backward(const Slice& out, const Slice& dout);
  Value finish(const Slice& sums);
  void merge(const Slice& into, const Slice& from);
  void add(const Slice& into, const Slice& from);

  // ---- compute by whole rows of scores
  void score(const Slices& queries, const Slices& keys, const Slices& scores);
  // The rows' probabilities and lse.
  std::pair<Value, Value> normalise(const Slice& scores);
  void weigh(const Slices& probs, const Slices& values, const Slices& out);
  // dprobs or dv may be {}.
  void weigh_backward(const Slices& dout, const Slices& values, const Slices& probs, const Slices& dprobs,
                      const Slices& dv);
  // dscores
  Value normalise_backward(const Slice& probs, const Slice& dprobs);
  // dq or dk may be {}.
  void score_backward(const Slices& queries, const Slices& keys, const Slices& dscores, const Slices& dq,
                      const Slices& dk);

  // ---- linear layers: a state's tokens are the run that it sums up; of an empty run there is none. `keys` are the inputs of
  // the key side, and initial_state where documents that begin in the run have one; `out` and `dout` are accompanied by
  // final_state and dfinal_state likewise, and `dkv`, the gradients of the key side, by dinitial_state.
  Value state_of(const Slices& keys);
  // Empty where the layer needs none: all ranks know its decays, and nothing mixes rows.
  Value transition_of(const Slice& keys);
  Value dstate_of(const Slice& queries, const Slice& keys, const Slices& dout);
  // Of two states, two dstates or two transitions, of which neither is empty. The transition is that of `later` for states and
  // of `earlier` for dstates, where the layer has one.
  Value compose(const Slice& earlier, const Slice& later, const Slice& transition = {});
  // Of neighbouring pieces; the transitions, where the layer has any, are those of all but the first, for dstates the last.
  Value compose_pieces(const Slice& pieces, const Slice& transitions);
  // `state` enters the run and `leaving`, to be written, leaves it; either may be empty.
  void scan(const Slice& queries, const Slices& keys, const Slices& out, const Slice& state = {},
            const Slice& leaving = {});
  // With a full mask, and `dout` of the queries, `out` is dq.
  void apply_state(const Slice& queries, const Slice& keys, const Slice& state, const Slices& out,
                   const Slice& dout = {});
  // `state` entered the run, `dstate` is of what follows it, and `leaving`, to be written, of both; any may be empty.
  void scan_backward(const Slice& queries, const Slices& keys, const Slices& dout, const Slice& state, const Slice& dq,
                     const Slices& dkv, const Slice& dstate = {}, const Slice& leaving = {});
  void apply_dstate(const Slices& keys, const Slice& dstate, const Slice& state, const Slices& dkv);

  // ---- communication
  Exchange exchange(int lane = 0) { return Exchange(*this, lane); }
  void wait(int lane);

  // ---- phases
  void begin_backward();

  // ---- for Program: what was written since the last call, and the step mark
  Block take();
  void clear();

 private:
  friend class Value;
  friend class Exchange;
  struct Slot {
    Fields fields;
    Form form{};
    SetId tokens{};
    SetId heads{};
    int32_t references = 0;
  };

  Value create(Op op, Form form, Fields fields, SetId tokens, SetId heads);
  void release(ValueId id);
  Instruction& record(Op op);
  // Appends the non-empty slices and returns how many they were.
  uint32_t operands(const Slices& list);
  bool is_empty(const Slice& slice) const { return slice.tokens == SetId::empty || slice.heads == SetId::empty; }
  const Slot& slot(ValueId id) const { return slots_[static_cast<size_t>(id)]; }
  bool any_pair(const Slices& queries, const Slices& keys) const;
  void pairwise(Op op, const Slices& queries, const Slices& keys, const Slices& bundles, const Slices& targets,
                const Slices& more_targets);
  void issue(int lane);

  const Problem& problem_;
  SetPool& pool_;
  int rank_;
  Set all_heads_, all_kv_heads_;
  uint32_t step_ = 0;
  std::vector<Slot> slots_;
  std::vector<ValueId> free_;
  std::vector<Instruction> instructions_;
  std::vector<Slice> slices_;
  std::vector<Part> parts_;
  std::vector<Part> outgoing_, incoming_;  // of the exchange being put together
};

// ---- handles, which every line of a writer copies and moves

inline Value::Value(const Value& other) : builder_(other.builder_), id_(other.id_) {
  if (builder_) ++builder_->slots_[static_cast<size_t>(id_)].references;
}
inline Value::Value(Value&& other) noexcept : builder_(std::exchange(other.builder_, nullptr)), id_(other.id_) {}
inline Value& Value::operator=(Value other) noexcept {
  std::swap(builder_, other.builder_);
  std::swap(id_, other.id_);
  return *this;
}
inline Value::~Value() {
  if (builder_) builder_->release(id_);
}

inline Set Value::tokens() const { return empty() ? Set() : Set(builder_->pool_, builder_->slot(id_).tokens); }
inline Set Value::heads() const { return empty() ? Set() : Set(builder_->pool_, builder_->slot(id_).heads); }
inline Fields Value::fields() const { return empty() ? Fields() : builder_->slot(id_).fields; }
inline Value::operator Slice() const {
  if (empty()) return {};
  const Builder::Slot& slot = builder_->slot(id_);
  return {id_, slot.tokens, slot.heads, slot.fields};
}
inline Slice Value::operator[](Set tokens) const { return at(tokens, heads()); }
inline Slice Value::at(Set tokens, Set heads) const {
  return empty() ? Slice{} : Slice{id_, tokens.id(), heads.id(), fields()};
}

}  // namespace weft
