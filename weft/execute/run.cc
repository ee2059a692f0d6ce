#include "weft/execute/run.h"

#include <chrono>
#include <thread>

#include "weft/kernels/canonical/exact_bins.h"

namespace weft::execute_internal {

static_assert(kMostCanonicalTerms == kernels::kMostTerms);

namespace {

double seconds() {
  const std::chrono::duration<double> now = std::chrono::steady_clock::now().time_since_epoch();
  return now.count();
}

}  // namespace

Context::Context(const Schedule& s, int r, Endpoint& e, const kernels::KernelSet& k, BufferPool& p, ExecuteOptions o)
    : schedule(s),
      problem(schedule.problem()),
      rank(r),
      endpoint(e),
      kernels(problem.canonical_tile == 0 || problem.layer != Layer::softmax ? k : *k.canonical()),
      pool(p),
      options(std::move(o)),
      workers(options.threads == 1 ? nullptr : std::make_unique<WorkerPool>(options.threads)),
      blocks(problem.pairs, sets, problem.canonical_tile),
      pieces(problem) {
  my_queries = sets.intern(problem.query_layout.shard(rank));
  my_keys = sets.intern(problem.key_layout.shard(rank));
  all_queries = sets.intern(Range{0, problem.query_layout.tokens()});
  all_keys = sets.intern(Range{0, problem.key_layout.tokens()});
  all_heads = sets.intern(Range{0, problem.heads});
  all_kv_heads = sets.intern(Range{0, problem.kv_heads});
  my_first_tokens = my_last_tokens = SetId::empty;
  if (problem.layer == Layer::softmax) return;
  my_first_tokens = sets.intern(problem.rows_among(sets[my_keys], Field::initial_state));
  my_last_tokens = sets.intern(problem.rows_among(sets[my_queries], Field::final_state));
}

SetId Context::rows_of_caller(Fields fields) const {
  if (kFirstTokenFields.includes(fields)) return my_first_tokens;
  if (kLastTokenFields.includes(fields)) return my_last_tokens;
  return (fields & kKeyFields).empty() ? my_queries : my_keys;
}

uint64_t Context::hash_of(SetId id) {
  const size_t index = static_cast<size_t>(id);
  if (index >= hashes.size()) hashes.resize(index + 1, 0);
  if (hashes[index] != 0) return hashes[index];
  uint64_t h = 0x9e3779b97f4a7c15u;
  for (const Range& range : sets[id].ranges()) {
    for (int64_t x : {range.begin, range.end}) {
      h = (h ^ static_cast<uint64_t>(x)) * 0xd6e8feb86659fd93u;
      h ^= h >> 32;
    }
  }
  return hashes[index] = h | 1;
}

Run::Run(Context& context)
    : c_(context), problem_(context.problem), sets_(context.sets), dependencies_(context.sets, context.problem) {
  if (c_.options.delay_seed != 0) {
    delays_.emplace(c_.options.delay_seed, static_cast<uint64_t>(c_.rank));
  }
}

// ---- phases

Results Run::forward(const Inputs& inputs, const Destinations& destinations) {
  if (phase_ != Phase::start) throw Error(ErrorCode::usage, "this execution has run forward before");
  program_ = c_.schedule.open(c_.rank, sets_);
  run_phase(Phase::forward, inputs, destinations);
  return collect_results();
}

Results Run::backward(const Inputs& inputs, const Destinations& destinations) {
  if (phase_ == Phase::over && !broken_) {
    throw Error(ErrorCode::usage, "there is no backward to run; the schedule has only forward, or backward has run");
  }
  if (phase_ != Phase::between) throw Error(ErrorCode::usage, "backward needs a forward before it");
  run_phase(Phase::backward, inputs, destinations);
  return collect_results();
}

void Run::run_phase(Phase phase, const Inputs& inputs, const Destinations& destinations) {
  phase_ = phase;
  inputs_ = inputs;
  destinations_ = destinations;
  results_.clear();
  const double waited = c_.endpoint.waiting_seconds();
  try {
    begin_parameters();
    run_instructions();
    end_phase();
  } catch (...) {
    // All ranks stop. The caller's memory is free to go once nobody uses it any more; so first let
    // go of what belongs to others.
    const std::exception_ptr error = locate(std::current_exception());
    c_.endpoint.fail(error);
    broken_ = true;
    phase_ = Phase::over;
    current_ = nullptr;
    flights_.clear();
    values_.clear();
    result_memory_ = {};
    c_.endpoint.recall();
    std::rethrow_exception(error);
  }
  waiting_ += c_.endpoint.waiting_seconds() - waited;
}

// Up to the second phase, or to the end.
void Run::run_instructions() {
  while (true) {
    if (next_ == block_.instructions.size()) {
      next_ = 0;
      if (!program_->next(block_)) {
        block_ = {};
        dependencies_.finish([&](uint64_t flight) { complete(flight); });
        values_.clear();
        return;
      }
    }
    while (next_ < block_.instructions.size()) {
      const Instruction& i = block_.instructions[next_++];
      step(i);
      if (i.op == Op::begin_backward) return;
    }
  }
}

void Run::step(const Instruction& i) {
  current_ = &i;
  ++count_;
  numbers_.follow(block_, i);
  if (delays_ && delays_->uniform(4) == 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(delays_->uniform(300)));
  }
  const bool traced = static_cast<bool>(c_.options.trace);
  const double begin = traced ? seconds() : 0;
  const double waited = traced ? c_.endpoint.waiting_seconds() : 0;
  dependencies_.before(block_, i, [&](uint64_t flight) { complete(flight); });
  execute(i);
  if (traced) {
    c_.options.trace({.rank = c_.rank,
                      .instruction = count_ - 1,
                      .op = i.op,
                      .lane = i.lane,
                      .step = i.step,
                      .begin = begin,
                      .end = seconds(),
                      .waiting = c_.endpoint.waiting_seconds() - waited});
  }
  current_ = nullptr;
}

void Run::execute(const Instruction& i) {
  const bool of_softmax = i.op == Op::attend || i.op == Op::attend_backward || i.op == Op::prepare_backward ||
                          (i.op >= Op::score && i.op <= Op::score_backward);
  if (of_softmax && problem_.layer != Layer::softmax) refuse("belongs to softmax attention, and this layer is linear");
  switch (i.op) {
    case Op::create:
    case Op::input: return create(i);
    case Op::drop: return drop(i);
    case Op::result: return result(i);
    case Op::exchange: return exchange(i);
    case Op::wait: return;
    case Op::attend: return attend(i);
    case Op::attend_backward: return attend_backward(i);
    case Op::prepare_backward: return prepare_backward(i);
    case Op::finish: return finish(i);
    case Op::merge:
    case Op::add: return combine(i);
    case Op::begin_backward:
      if (phase_ == Phase::backward) refuse("backward begins twice");
      return;
    default:
      if (!c_.pool.memory().on_host()) {
        throw Error(ErrorCode::unsupported, std::string(name_of(i.op)) +
                                                " is computed in main memory only, and these "
                                                "values lie in " +
                                                std::string(c_.pool.memory().name()));
      }
      return i.op >= Op::summarise ? execute_states(i) : execute_scores(i);
  }
}

void Run::end_phase() {
  check_results();
  keep_borrowed();
  const bool more = phase_ == Phase::forward && next_ > 0;  // stopped inside a block, at the mark
  const double waited = c_.endpoint.waiting_seconds();
  c_.endpoint.end_phase();
  phase_end_ += c_.endpoint.waiting_seconds() - waited;
  phase_ = more ? Phase::between : Phase::over;
  if (!more) program_.reset();
}

// What lives on must not be the caller's memory, on this rank or on another.
void Run::keep_borrowed() {
  for (RankValue& value : values_) {
    if (!value.exists) continue;
    value.all.fields.for_each([&](Field f) {
      if (value.field(f).lending == Lending::lasting) return;
      const RankValue borrowed = value;
      allocate(value, f);
      convert(value, borrowed, value.all.only(f));
    });
  }
}

void Run::check_results() {
  const auto require = [&](Fields fields) {
    fields.for_each([&](Field field) {
      if (results_.covers(sets_, {ValueId{}, c_.rows_of_caller(field), c_.heads_of_caller(field), field})) return;
      refuse(std::string("the phase ends, but not all rows of ") + name_of(field) + " are given as a result");
    });
  };
  if (phase_ == Phase::backward) {
    require(problem_.results_of(true));
  } else {
    const Fields fields = problem_.results_of(false);
    require(problem_.return_lse ? fields : Fields::from_bits(fields.bits() & ~Fields(Field::lse).bits()));
  }
}

Results Run::collect_results() {
  Results results;
  (problem_.results_of(false) | problem_.results_of(true)).for_each([&](Field field) {
    const FieldMemory& memory = result_memory(field).field(field);
    if (!memory.data ||
        !results_.covers(sets_, {ValueId{}, c_.rows_of_caller(field), c_.heads_of_caller(field), field})) {
      return;
    }
    results.of(field) = {memory.data, memory.owner};
  });
  if (du_.data) results.du = {du_.data, du_.owner};
  du_ = {};
  result_memory_ = {};
  return results;
}

// ---- errors

void Run::refuse(const std::string& text) const { throw Error(ErrorCode::wrong, text); }

std::string Run::describe(const Slice& slice) const {
  return to_string(slice.fields) + " " + to_string(sets_[slice.tokens]) + ", heads " + to_string(sets_[slice.heads]);
}

// The error with rank and instruction in front; that another rank failed is passed on as it is.
std::exception_ptr Run::locate(const std::exception_ptr& error) {
  ErrorCode code = ErrorCode::internal;
  std::string text;
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::stopped) return error;
    code = e.code();
    text = e.what();
  } catch (const std::exception& e) {
    text = e.what();
  } catch (...) {
    text = "unknown exception";
  }
  std::string where = "rank " + std::to_string(c_.rank);
  if (current_) {
    std::string what = name_of(current_->op);
    try {
      what = print(problem_, sets_, numbers_, block_, *current_);
    } catch (const std::exception&) {  // the program is damaged: its name has to do
    }
    if (what.size() > 160) what = what.substr(0, 157) + "...";
    where += ", instruction " + std::to_string(count_ - 1) + " (" + what + ")";
  } else {
    where += ", after instruction " + std::to_string(count_ - 1);
  }
  return std::make_exception_ptr(Error(code, where + ": " + text));
}

}  // namespace weft::execute_internal

// ---- the public side

namespace weft {

Executor::Executor(const Schedule& schedule, int rank, Endpoint& endpoint, const kernels::KernelSet& kernels,
                   BufferPool& pool, ExecuteOptions options) {
  const Problem& problem = schedule.problem();
  const std::string ranks = std::to_string(schedule.ranks());
  if (rank < 0 || rank >= schedule.ranks()) {
    throw Error(ErrorCode::usage, "rank " + std::to_string(rank) + " is not among the schedule's " + ranks + " ranks");
  }
  if (endpoint.rank() != rank || endpoint.ranks() != schedule.ranks()) {
    throw Error(ErrorCode::usage, "the endpoint is that of rank " + std::to_string(endpoint.rank()) + " of " +
                                      std::to_string(endpoint.ranks()) + ", not of rank " + std::to_string(rank) +
                                      " of " + ranks);
  }
  if (!kernels.supports(problem.element)) {
    throw Error(ErrorCode::unsupported, "kernels '" + std::string(kernels.name()) + "' have no " +
                                            std::string(name_of(problem.element)) + "; use the reference kernels");
  }
  if (&pool.memory() != &kernels.memory()) {
    throw Error(ErrorCode::usage, "kernels '" + std::string(kernels.name()) + "' work in memory " +
                                      std::string(kernels.memory().name()) + ", and the pool's is " +
                                      std::string(pool.memory().name()));
  }
  if (options.threads < 1) {
    throw Error(ErrorCode::usage, std::to_string(options.threads) + " threads for a rank; it has at least 1");
  }
  if (problem.canonical_tile != 0 && problem.layer == Layer::softmax && !kernels.canonical()) {
    throw Error(ErrorCode::unsupported, "kernels '" + std::string(kernels.name()) +
                                            "' cannot give canonical results; use those of the CPU, or leave it out");
  }
  context_ = std::make_unique<execute_internal::Context>(schedule, rank, endpoint, kernels, pool, std::move(options));
}

Executor::~Executor() = default;

const Problem& Executor::problem() const { return context_->problem; }
int Executor::rank() const { return context_->rank; }

std::unique_ptr<Execution> Executor::start() { return std::make_unique<execute_internal::Run>(*context_); }

}  // namespace weft
