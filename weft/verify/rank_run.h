// One rank's program, run symbolically: everything in the proof that needs no other rank.
//
// The scheduler (scheduler.h) lets each rank run until it blocks at an exchange, matches messages, and lets it go on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "weft/schedule/dependencies.h"
#include "weft/schedule/pieces.h"
#include "weft/schedule/schedule.h"
#include "weft/schedule/shared_heads.h"
#include "weft/verify/content.h"
#include "weft/verify/trace.h"
#include "weft/verify/verify.h"

namespace weft::verify_internal {

// One message of the exchange at which a rank is blocked. All ranks may be blocked with thousands: short ones count.
struct PendingMessage {
  int peer = 0;
  uint32_t first = 0;  // part of the block
  uint32_t count : 31 = 0;
  uint32_t matched : 1 = false;
};

// Bytes of a row on the wire, remembered for the fields that messages had last: a program sends a few kinds.
class WireBytes {
 public:
  int64_t of(const Problem& problem, Fields fields, Form form) {
    Known& known = known_[fields.bits() * 0x9e3779b9u >> 30];
    if (known.fields != fields || known.form != form) known = {fields, form, problem.wire_bytes_per_row(fields, form)};
    return known.bytes;
  }

 private:
  struct Known {
    Fields fields;
    Form form{};
    int64_t bytes = 0;
  };
  Known known_[4];
};

class RankRun {
 public:
  // `note` receives what is wrong; `trace` follows one contribution, or is null.
  RankRun(const Schedule& schedule, int rank, const Pieces& pieces, SetPool& pool, std::function<void(Finding)> note,
          Trace* trace);

  // Runs until the next exchange with a message, or to the end. Returns false at the end.
  bool run();
  bool finished() const { return finished_; }

  // ---- while blocked at an exchange
  std::vector<PendingMessage>& outgoing() { return outgoing_; }
  std::vector<PendingMessage>& incoming() { return incoming_; }
  std::span<const Part> parts_of(const PendingMessage& message) const {
    return block_.parts.subspan(message.first, message.count);
  }
  int unmatched = 0;  // messages of the exchange that have not met their other end
  // Moves what `sender` sends in these parts into this rank's parts, after comparing them. Part by part. `sets` is the
  // pool of the thread that calls, which need not be the one that runs this rank.
  void receive(RankRun& sender, std::span<const Part> sent, std::span<const Part> expected, SetPool& sets);

  int rank() const { return rank_; }
  int64_t instruction() const { return count_ - 1; }  // the one being run
  int64_t instructions() const { return count_; }
  const RankReport& report() const { return report_; }
  // Steps of a phase, counted from its first, in which this rank attends or sends or receives something.
  const IntervalSet& steps(bool backward) const { return steps_[backward]; }
  void note(const char* kind, const std::string& text);

 private:
  // Exchanges that read a value, those in flight and a few of before. Mostly there is one at a time.
  struct Readers {
    static constexpr uint64_t kNone = ~uint64_t{0};
    uint64_t first = kNone;
    std::vector<uint64_t> others;  // only while there is a first
    void clear() {
      first = kNone;
      others.clear();
    }
  };
  // Thousands of ranks have some dozens each, and what a step reads of them is not in the cache: short ones count.
  struct ValueState {
    bool exists = false;
    bool is_input = false;
    bool is_result = false;
    Form form{};
    Slice all;  // tokens, heads and fields of the value
    int64_t bytes = 0;
    Defined defined;
    Readers readers;
    Contributions contributions;
  };
  // Bytes that outlive their drop until the exchanges that read them are complete.
  struct Held {
    int64_t bytes = 0;
    int pending = 0;
  };
  struct HeldBy {
    uint64_t flight;
    size_t held;
  };
  struct FlightState {
    uint64_t number = 0;
    int64_t staging = 0;
    int64_t received = 0;         // bytes from others
    int64_t computes_before = 0;  // of this rank at the issue
  };

  void execute(const Instruction& i);
  void create(const Instruction& i);
  void drop(const Instruction& i);
  void result(const Instruction& i);
  void attend(const Instruction& i);
  void attend_backward(const Instruction& i);
  template <typename F>
  void for_each_group(const std::vector<SetId>& tokens, F&& f);
  // Adds pairs of these rows and others to the gradient that an attend_backward has for them, if any.
  void contribute(const Instruction& i, Field field, SetId query_heads, SetId rows, const IntervalSet& others);
  void check_tiles(const char* op, Field field, SetId queries, SetId keys);
  void prepare_backward(const Instruction& i);
  void finish(const Instruction& i);
  void combine(const Instruction& i);
  // Notes what rows of a sum lack.
  void check_complete(const ValueState& from, const Slice& rows);
  void begin_backward();
  void end_of_program();

  // ---- rank_scores.cc
  void execute_scores(const Instruction& i);
  void score(const Instruction& i);
  void normalise(const Instruction& i);
  void weigh(const Instruction& i);
  void weigh_backward(const Instruction& i);
  void normalise_backward(const Instruction& i);
  void score_backward(const Instruction& i);
  template <typename F>
  void for_each_pair(const Instruction& i, Field query_field, Field key_field, F&& f);
  bool has_bundle(const Instruction& i, const Slice& q, Field field);
  void check_targets(const Instruction& i, Fields wanted);
  enum class Rows : uint8_t { queries, keys };
  void add_pairs(const Instruction& i, Field field, Rows rows, const Slice& q, const Slice& k, const char* verb);
  bool same_queries(const Slice& a, const Slice& b, const char* what);
  int64_t bytes_of_scores(const Slice& slice);

  // ---- rank_states.cc
  // Neighbouring tokens in some heads: what an instruction of a linear layer works on.
  struct TokenRun {
    SetId tokens{};
    SetId heads{};
    Range range;
    SetId first_tokens{}, last_tokens{};  // of documents, where these have given or wanted states
    SetId rows(Fields fields) const {
      return kFirstTokenFields.includes(fields)  ? first_tokens
             : kLastTokenFields.includes(fields) ? last_tokens
                                                 : tokens;
    }
  };
  void execute_states(const Instruction& i);
  void summarise(const Instruction& i);
  void scan(const Instruction& i);
  void apply_state(const Instruction& i);
  void summarise_backward(const Instruction& i);
  void scan_backward(const Instruction& i);
  void apply_dstate(const Instruction& i);
  bool find_run(const Instruction& i, bool with_queries, TokenRun& run);
  const Slice* bundle_of_run(const Instruction& i, Field field, const TokenRun& run, bool& wrong);
  bool has_only_bundles(const Instruction& i, Fields fields);
  bool has_initial_states(const Instruction& i, const TokenRun& run);
  bool takes_keys_alone(const Instruction& i);
  bool has_dout(const Instruction& i, const TokenRun& run);
  bool has_bundle_of_rows(const Instruction& i, Field field, const TokenRun& run);
  const Slice* entering_state(const Instruction& i, const TokenRun& run, bool& wrong);
  const Slice* complete_state(const Instruction& i, const TokenRun& run, bool& wrong);
  const Slice* following_dstate(const Instruction& i, const TokenRun& run, bool& wrong);
  bool gives_what_leaves(const Instruction& i, const TokenRun& run, Field field, const Slice* coming);
  IntervalSet tokens_of_both(const Slice* state, const TokenRun& run) const;
  bool check_sums(const Instruction& i, Fields wanted, Fields gives = {});
  void gain(const Instruction& i, Fields fields, const TokenRun& run, const IntervalSet& tokens, const char* verb);
  void define_state(const Slice& target, const char* verb);

  // ---- rank_compose.cc
  void compose(const Instruction& i);
  void compose_two(const Instruction& i, const Slice& earlier, const Slice& later, const Slice& target);
  void compose_pieces(const Instruction& i, const Slice& source, const Slice& target);
  bool are_pieces(const Slice& slice, const char* role);
  // Whether what arrives for a value in pieces is one whole piece of it.
  bool is_one_piece(const ValueState& value, const Slice& slice);

  // ---- rank_both_ways.cc
  bool has_one_document(const Instruction& i, Range tokens);
  bool has_whole_documents(const Instruction& i, const TokenRun& run);
  void scan_both_ways(const Instruction& i);
  void scan_both_ways_backward(const Instruction& i);
  const Slice* state_of_document(const Instruction& i, Field field, const TokenRun& run);
  void apply_state_both_ways(const Instruction& i);
  void apply_dstate_both_ways(const Instruction& i);

  void issue(const Instruction& i);
  void check_exchange(const Instruction& i);
  void check_copy(const Part& copy, std::span<const Part> incoming);
  void complete_exchange();  // all messages met: what came in is there
  void complete_flight(uint64_t number);
  void add_reader(Readers& readers, uint64_t flight) const;
  // Calls f(number of a flight) for those that are in flight.
  template <typename F>
  void for_each_in_flight(const Readers& readers, F&& f) const;
  bool is_in_flight(uint64_t number) const {
    return std::any_of(flights_.begin(), flights_.end(), [&](const FlightState& f) { return f.number == number; });
  }

  // The value of a slice, or null after noting what is wrong with it.
  ValueState* find(const Slice& slice, const char* role) {
    const size_t id = static_cast<size_t>(slice.value);
    if (id >= values_.size() || !values_[id].exists) return note_no_value(slice, role);
    ValueState& value = values_[id];
    const bool inside =
        !slice.fields.empty() && value.all.fields.includes(slice.fields) && has_tokens(value, slice.tokens) &&
        pool_.includes(value.all.heads, slice.heads) &&
        ((slice.fields & kStateFields).empty() || slice.tokens == value.all.tokens || value.form == Form::pieces);
    return inside ? &value : note_outside(slice, role);
  }
  bool has_tokens(const ValueState& value, SetId tokens) {
    // Each rank has a run of pieces of its own, so that nothing is asked twice, which is what the pool is good at.
    if (value.form != Form::pieces) return pool_.includes(value.all.tokens, tokens);
    const Range run = pool_[value.all.tokens].hull(), part = pool_[tokens].hull();
    return part.begin >= run.begin && part.end <= run.end;
  }
  ValueState* note_no_value(const Slice& slice, const char* role);
  ValueState* note_outside(const Slice& slice, const char* role);
  // Whether a slice is whole and defined, at least its `needed` fields; with a value that was found already, or not.
  bool is_whole(const Slice& slice, const char* role, Fields needed) {
    const ValueState* value = find(slice, role);
    return value && is_whole(*value, slice, role, needed);
  }
  bool is_whole(const ValueState& value, const Slice& slice, const char* role, Fields needed);
  bool is_sum(const ValueState& value, const Slice& slice, const char* role);
  bool same_rows(const Slice& a, const Slice& b, const char* what);
  // Whether a slice has all heads of `all` that share rows with its own; else notes it.
  bool has_shared_rows(const Slice& slice, SetId all, const char* role);
  ValueState* accumulator(const Slice& slice, const char* role);
  void take(ValueState& from, ValueState& to, const Slice& target, bool into_identity, SetPool& sets);
  // Query heads of a slice: kv heads expanded.
  SetId query_heads(const Slice& slice, SetPool& sets) const {
    return is_key_side(slice.fields) ? sets.expand(slice.heads, problem_.group()) : slice.heads;
  }
  bool is_key_side(Fields fields) const { return !(fields & kKeyFields).empty(); }
  int64_t missing_pairs(bool key_side, SetId own, const IntervalSet& other) const;
  // On the wire.
  int64_t bytes_of_message(const Slice& slice, Form form) {
    int64_t bytes = pool_.size(slice.heads) * wire_bytes_.of(problem_, slice.fields, form);
    if (const Fields shared = slice.fields & shared_; !shared.empty())
      bytes -= bytes_saved(pool_, problem_, slice.heads, problem_.wire_bytes_per_row(shared, form));
    return rows_of(pool_, slice) * bytes;
  }
  void add_live(int64_t bytes);
  void mark_step(const Instruction& i);
  std::string describe(const Slice& slice) const;
  void check_results();

  const Problem& problem_;
  const Fields shared_;  // by several heads each
  const Pieces& pieces_;
  SetPool& pool_;
  int rank_;
  std::function<void(Finding)> note_;
  Trace* trace_;
  std::unique_ptr<Program> program_;
  Block block_;
  size_t next_ = 0;
  int64_t count_ = 0;
  bool finished_ = false;
  bool backward_ = false;
  std::vector<ValueState> values_;
  Defined results_;
  Dependencies dependencies_;
  std::vector<FlightState> flights_;  // the few in flight
  WireBytes wire_bytes_;
  static constexpr size_t kFewReaders = 8;
  std::vector<ValueId> sent_sums_;  // during check_exchange
  std::vector<SetId> attended_;     // during attend and attend_backward: keys of one slice of queries,
  std::vector<Range> ranges_;       // of all of them,
  IntervalSet group_;               // and those that are added at once
  std::vector<Held> held_;
  std::vector<HeldBy> held_by_;
  int64_t live_ = 0;
  RankReport report_;
  int64_t computes_ = 0;     // instructions that attend, or do a part of it
  IntervalSet steps_[2];     // forward, backward
  int64_t phase_began_ = 0;  // step
  std::vector<PendingMessage> outgoing_, incoming_;
  const Instruction* exchange_ = nullptr;
  SetId all_queries_, all_keys_, my_queries_, my_keys_, all_heads_, all_kv_heads_;
  SetId my_first_tokens_{}, my_last_tokens_{};  // of documents
  // The rows of the caller's tensors on this rank.
  SetId rows_of_caller(Fields fields) const {
    if (kFirstTokenFields.includes(fields)) return my_first_tokens_;
    if (kLastTokenFields.includes(fields)) return my_last_tokens_;
    return is_key_side(fields) ? my_keys_ : my_queries_;
  }
};

}  // namespace weft::verify_internal
