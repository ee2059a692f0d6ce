// One run of a rank's program. Private to this folder.
//
// run.cc goes through the instructions and the phases; run_values.cc makes, checks and ends values;
// run_compute.cc calls kernels; run_exchange.cc moves data.
#pragma once

#include <list>
#include <optional>
#include <string>
#include <vector>

#include "weft/base/random.h"
#include "weft/base/worker_pool.h"
#include "weft/execute/blocks.h"
#include "weft/execute/executor.h"
#include "weft/execute/value.h"
#include "weft/kernels/linear/recurrence.h"
#include "weft/schedule/dependencies.h"
#include "weft/schedule/print.h"
#include "weft/schedule/shared_heads.h"

namespace weft::execute_internal {

// What all runs of an executor share.
struct Context {
  Context(const Schedule& s, int r, Endpoint& e, const kernels::KernelSet& k, BufferPool& p, ExecuteOptions o);

  // A hash of a set's members: equal on every rank, unlike its id.
  uint64_t hash_of(SetId id);

  const Schedule schedule;
  const Problem& problem;
  const int rank;
  Endpoint& endpoint;
  const kernels::KernelSet& kernels;
  BufferPool& pool;
  const ExecuteOptions options;
  const std::unique_ptr<WorkerPool> workers;  // null: this thread alone
  SetPool sets;
  BlockCache blocks;
  std::vector<uint64_t> hashes;  // by set; 0: not computed yet
  SetId my_queries, my_keys, all_queries, all_keys, all_heads, all_kv_heads;
  SetId my_first_tokens, my_last_tokens;  // of documents
  const Pieces pieces;

  // The rows and heads of the caller's tensors on this rank.
  SetId rows_of_caller(Fields fields) const;
  SetId heads_of_caller(Fields fields) const { return (fields & kKeyFields).empty() ? all_heads : all_kv_heads; }
};

class Run final : public Execution {
 public:
  explicit Run(Context& context);

  Results forward(const Inputs& inputs, const Destinations& destinations) override;
  Results backward(const Inputs& inputs, const Destinations& destinations) override;
  int64_t live_bytes() const override { return meter_->live; }
  int64_t peak_bytes() const override { return meter_->peak; }
  double waiting_seconds() const override { return waiting_; }
  double phase_end_seconds() const override { return phase_end_; }

 private:
  enum class Phase { start, between, forward, backward, over };

  // ---- run.cc
  void run_phase(Phase phase, const Inputs& inputs, const Destinations& destinations);
  void run_instructions();
  void step(const Instruction& i);
  void execute(const Instruction& i);
  void end_phase();
  void keep_borrowed();
  void check_results();
  Results collect_results();
  std::exception_ptr locate(const std::exception_ptr& error);
  [[noreturn]] void refuse(const std::string& text) const;
  std::string describe(const Slice& slice) const;

  // ---- run_values.cc
  void create(const Instruction& i);
  void input(const Slice& slice, RankValue& value);
  void drop(const Instruction& i);
  void result(const Instruction& i);
  RankValue& find(const Slice& slice, const char* role);
  // Finds it and checks that these fields of the slice are whole and written.
  RankValue& whole(const Slice& slice, const char* role, Fields needed);
  // Finds it and checks that it is an accumulating value, named with all its fields.
  RankValue& accumulator(const Slice& slice, const char* role);
  void need_same_rows(const Slice& a, const Slice& b, const char* what);
  // Refuses a slice without some heads of `all` that share rows with its own.
  void need_shared_rows(const Slice& slice, SetId all, const char* role);
  void write(RankValue& value, const Slice& slice);
  void fill_identity(RankValue& value);
  int64_t bytes_of(RankValue& value);
  void allocate(RankValue& value, Field field);
  // Whether the value, just created, is all of a result, so that it can be made in place.
  bool becomes_result(const Slice& slice) const;
  RankValue& result_memory(Field field);
  void allocate_result(RankValue& results, Field field, std::byte* destination);

  // ---- run_compute.cc
  void attend(const Instruction& i);
  void attend_backward(const Instruction& i);
  void prepare_backward(const Instruction& i);
  void finish(const Instruction& i);
  void combine(const Instruction& i);
  void attend_pair(const Slice& q, const Slice& k, RankValue& into);
  struct Backward;
  void attend_backward_pair(const Backward& operands);
  // Element-wise kernels on the tokens, heads and fields of a slice, which both values hold.
  void add(RankValue& to, const RankValue& from, const Slice& slice);
  void merge(RankValue& to, const RankValue& from, const Slice& slice);
  void convert(RankValue& to, const RankValue& from, const Slice& slice);
  void finish_partial(RankValue& to, const RankValue& from, const Slice& slice);
  void set_kv_heads(Range heads, const RankValue& kv);

  // ---- run_scores.cc: attention by whole rows of scores
  void execute_scores(const Instruction& i);
  void score(const Instruction& i);
  void normalise(const Instruction& i);
  void weigh(const Instruction& i);
  void weigh_backward(const Instruction& i);
  void normalise_backward(const Instruction& i);
  void score_backward(const Instruction& i);
  template <typename F>
  void for_each_pair(const Instruction& i, Field query_field, Field key_field, F&& f);
  RankValue* score_target(const Instruction& i, Field field, SetId rows, SetId heads);
  RankValue& score_bundle(const Instruction& i, Field field, const Slice& q);
  struct ScoreProduct;
  void multiply(const ScoreProduct& product);
  void need_same_columns(const RankValue& a, const RankValue& b);

  // ---- run_maps.cc: linear layers
  struct Joining;
  void join(const Joining& maps, int64_t head);
  void compose(const Instruction& i);
  void compose_two(const Instruction& i, const Slice& first, const Slice& second, const Slice& target);
  void compose_pieces(const Instruction& i, const Slice& source, const Slice& target);
  const RankValue& in_pieces(const Slice& slice, const char* role);
  Field kind_of(const Slice& map) const;
  const Slice* transition_passed(const Instruction& i, Field field);
  template <typename F>
  void for_each_of(SetId heads, F&& f);

  // ---- run_states.cc
  struct TokenRun;
  void execute_states(const Instruction& i);
  void summarise(const Instruction& i);
  void scan(const Instruction& i);
  void apply_state(const Instruction& i);
  void summarise_backward(const Instruction& i);
  void scan_backward(const Instruction& i);
  void apply_dstate(const Instruction& i);
  TokenRun token_run(const Instruction& i, bool with_queries);
  TokenRun summed_run(const Instruction& i, bool with_queries);
  const RankValue* bundle_of_run(const Instruction& i, Field field, const TokenRun& run, SetId tokens = {});
  void need_of_documents(const TokenRun& run, const RankValue* value, Field field);
  SetId rows_in_run(const TokenRun& run, Fields fields);
  kernels::View view_of(const RankValue* value, Field field, int64_t token, int64_t head);
  kernels::Decays decays_of(int64_t head) const;
  RankValue* leaving(const Instruction& i, const TokenRun& run, Field field);
  const RankValue* entering(const Instruction& i, const TokenRun& run);
  const RankValue* following(const Instruction& i, const TokenRun& run);
  kernels::View sums_of(const std::vector<const RankValue*>& sums, Field field, const TokenRun& run, int64_t head);
  template <typename F>
  void for_each_head(const TokenRun& run, F&& f);
  void begin_parameters();
  kernels::ConstView parameter(int64_t head) const;
  std::vector<const RankValue*> sums(const Instruction& i, const TokenRun& run, Fields wanted);
  kernels::RunGradients gradients_of(const std::vector<const RankValue*>& sums, const TokenRun& run, int64_t head);

  // ---- run_exchange.cc
  // What became of one incoming part, once its exchange is complete.
  struct Arrival {
    Part part;
    size_t message = 0, first = 0;  // of the transfer: the part's fields are consecutive there
    bool staged = false;
    RankValue staging;  // in wire types
  };
  struct Flight {
    uint64_t number = 0;
    bool complete = false;
    std::unique_ptr<Pending> pending;
    std::vector<Arrival> arrivals;
    std::vector<std::shared_ptr<Charge>> charges;  // values it reads, and staging
    // Messages that read accumulating values which may still change, by message of the transfer.
    std::vector<std::vector<ValueId>> readers;
  };
  void exchange(const Instruction& i);
  void check_parts(std::span<const Part> out, std::span<const Part> in);
  void send_part(const Instruction& i, const Part& part, Flight& flight, std::vector<OutgoingPart>& to,
                 std::vector<ValueId>& readers);
  void receive_part(const Instruction& i, const Part& part, size_t message, Flight& flight,
                    std::vector<IncomingPart>& to);
  RankValue staging_of(const RankValue& value, const Slice& slice);
  uint64_t label(const Instruction& i, const Slice& slice, Field field, Form form);
  void complete(uint64_t flight);
  void apply(Flight& flight, Arrival& arrival);
  void merge_arrived(RankValue& value, Arrival& arrival);
  void let_go(ValueId id);

  Context& c_;
  const Problem& problem_;
  SetPool& sets_;
  std::shared_ptr<Charge::Meter> meter_ = std::make_shared<Charge::Meter>();
  std::unique_ptr<Program> program_;
  Block block_;
  size_t next_ = 0;                       // in the block
  int64_t count_ = 0;                     // instructions begun
  const Instruction* current_ = nullptr;  // while one is executed
  Phase phase_ = Phase::start;
  bool broken_ = false;
  ValueNumbers numbers_;
  std::vector<RankValue> values_;  // by id
  Dependencies dependencies_;
  std::list<Flight> flights_;
  double waiting_ = 0, phase_end_ = 0;
  std::optional<Random> delays_;

  // The caller's side of the phase under way.
  Inputs inputs_;
  Destinations destinations_;
  std::array<RankValue, kFieldCount> result_memory_;
  FieldMemory du_;  // of the layer's parameter u, in backward
  Written results_;
  std::vector<int32_t> kv_head_;  // reused by attend
};

}  // namespace weft::execute_internal
