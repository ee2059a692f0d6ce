#include "weft/ops/attention_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "weft/base/digest.h"
#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/methods/linear/choice.h"
#include "weft/methods/registry.h"
#include "weft/torch/torch_kernels.h"
#include "weft/transport/largest.h"

namespace weft {
namespace {

// What "auto" chooses for, until machines are measured.
constexpr Machine kMachine{.operations = 1e11, .network = {.latency = 2e-5, .bandwidth = 1e9}};
constexpr const char* kOnMachine = ", for ranks that compute 100 GFLOP/s and send 1 GB/s";

// Seconds that one step of attention takes by a closed form: compute and messages under way at once, what is exposed after one
// another.
double seconds_of(const Formula& formula, int64_t dim) {
  const auto phase = [&](const PhaseCost& cost, double products) {
    const double compute = 2 * products * static_cast<double>(cost.work.busiest * dim) / kMachine.operations;
    const double exposed = static_cast<double>(cost.exposed_bytes.busiest) / kMachine.network.bandwidth;
    const double sending = static_cast<double>(cost.bytes.busiest) / kMachine.network.bandwidth +
                           kMachine.network.latency * static_cast<double>(cost.steps);
    return std::max(compute, sending) + exposed;
  };
  return phase(formula.forward, 2) + phase(formula.backward, 5);
}

std::string describe(const CallKind& kind) {
  return std::string(name_of(kind.element)) + ", batch " + std::to_string(kind.batch) + ", scale " +
         (kind.scale == 0 ? "of the layer" : std::to_string(kind.scale)) + (kind.backward ? ", gradients" : "") +
         (kind.lse ? ", log-sum-exp" : "") + (kind.initial_states ? ", initial states" : "") +
         (kind.final_states ? ", final states" : "") +
         (kind.state_positions.empty() ? "" : ", states after " + join(kind.state_positions)) +
         (kind.device == c10::kCPU ? "" : ", on " + c10::DeviceTypeName(kind.device, true));
}

// Rows of the longest message.
int64_t largest_message(std::span<const RowMessages> ranks) {
  int64_t rows = 0;
  for (const RowMessages& rank : ranks) {
    for (const RowMessage& message : rank.send) rows = std::max(rows, message.tokens.size());
  }
  return rows;
}

}  // namespace

AttentionPlan::AttentionPlan(PlanSpec spec)
    : spec_(std::move(spec)), endpoint_(group_endpoint(spec_.group, spec_.timeout)), layout_(Layout::contiguous(1, 1)) {
  if (spec_.canonical && spec_.layer == Layer::softmax) {
    throw Error(ErrorCode::unsupported,
                "canonical=True is for linear layers, not for softmax; leave it out, or name a layer");
  }
  choose_method();
  layout_ = spec_.runs ? given_layout()
                       : choose_layout(spec_.layout, method_, spec_.documents, ranks(), spec_.options, tile());
  schedule({.backward = true});  // refuses what the method cannot do
}

Layout AttentionPlan::given_layout() const {
  if (static_cast<int>(spec_.runs->size()) != ranks()) {
    throw Error(ErrorCode::usage, "layout has the tokens of " + std::to_string(spec_.runs->size()) +
                                      " ranks; the group has " + std::to_string(ranks()));
  }
  int64_t tokens = 0;
  for (int64_t length : spec_.documents.lengths) tokens += length;
  return Layout::from_runs(tokens, *spec_.runs);
}

void AttentionPlan::choose_method() {
  method_ = spec_.method, why_ = "as asked for";
  if (method_ != "auto") return;
  if (!spec_.options.empty()) {
    throw Error(ErrorCode::usage, "options belong to a method, and method=auto chooses one; name the method");
  }
  Configuration c;
  c.ranks = ranks(), c.tokens = spec_.documents.lengths[0], c.mask = spec_.documents.rule, c.layout = spec_.layout;
  c.heads = spec_.heads, c.kv_heads = spec_.kv_heads, c.dim = spec_.dim, c.dim_v = spec_.dim_v, c.backward = true;
  if (spec_.canonical) {
    method_ = "all-scan",
    why_ = "canonical results: a rank begins when the first block's state has come, and sends least";
    return;
  }
  if (spec_.layer != Layer::softmax) {
    c.layer = spec_.layer, c.key_heads = spec_.key_heads, c.householders = spec_.householders,
    c.element = c.wire = DType::bf16;
    c.tokens = std::accumulate(spec_.documents.lengths.begin(), spec_.documents.lengths.end(), int64_t{0});
    const LinearChoice choice = choose_linear_method(c, kMachine);
    method_ = choice.method, why_ = choice.why + kOnMachine;
    return;
  }
  method_ = "zigzag",
  why_ = "no closed forms for windows, packed documents and layouts of your own yet: even work on every mask";
  if (spec_.documents.lengths.size() > 1 || spec_.runs) return;
  double least = std::numeric_limits<double>::infinity();
  for (const Method* method : all_methods()) {
    if (method->reference || !method->alias_of.empty()) continue;
    const Formula formula = formula_of(*method, c, MethodOptions(method->name, method->options, {}));
    if (!formula.known()) continue;
    const double seconds = seconds_of(formula, spec_.dim);
    if (seconds >= least) continue;
    least = seconds, method_ = method->name;
    why_ = std::string("the least time by the methods' closed forms") + kOnMachine;
  }
}

AttentionShape AttentionPlan::shape(const CallKind& kind) const {
  AttentionShape shape;
  shape.layer = spec_.layer;
  shape.log_decay = spec_.log_decay;
  if (decay_of(spec_.layer) == Decay::constant && shape.log_decay.empty()) {
    shape.log_decay = retnet_log_decays(spec_.heads);
  }
  shape.heads = spec_.heads, shape.kv_heads = spec_.kv_heads;
  shape.dim = spec_.dim, shape.dim_v = spec_.dim_v;
  shape.key_heads = spec_.key_heads;
  shape.householders = spec_.householders;
  shape.canonical_tile = tile();
  shape.backward = kind.backward;
  shape.return_lse = kind.lse;
  shape.initial_states = kind.initial_states, shape.final_states = kind.final_states;
  shape.ask_for_states(kind.state_positions);
  shape.element = kind.element;
  shape.wire = shape.accumulator();
  return shape;
}

Schedule AttentionPlan::schedule(const CallKind& kind) const {
  Problem problem = self_attention(Mask::documents(spec_.documents.lengths, spec_.documents.rule), layout_, 1, 1, 1);
  AttentionShape& all = problem;
  all = shape(kind);
  const std::vector<double> decays = all.log_decay;
  for (int64_t n = 1; n < kind.batch; ++n) all.log_decay.insert(all.log_decay.end(), decays.begin(), decays.end());
  all.heads *= kind.batch, all.kv_heads *= kind.batch, all.key_heads *= kind.batch;
  problem.scale = kind.scale;
  return make_schedule(method_, std::move(problem), spec_.options);
}

std::vector<int64_t> AttentionPlan::documents_at(int rank, bool first_token) const {
  const IntervalSet& here = layout_.shard(rank);
  std::vector<int64_t> documents;
  int64_t begin = 0;
  for (size_t n = 0; n < spec_.documents.lengths.size(); ++n) {
    const int64_t end = begin + spec_.documents.lengths[n], token = first_token ? begin : end - 1;
    if (intersect(here, Range{token, token + 1}).size() > 0) documents.push_back(static_cast<int64_t>(n));
    begin = end;
  }
  return documents;
}

int64_t AttentionPlan::local_rows(Field field, const AttentionShape& shape) const {
  if (!kDocumentFields.has(field)) return local_tokens();
  const auto begun_or_ended = static_cast<int64_t>(documents_at(rank(), kFirstTokenFields.has(field)).size());
  if (kFirstTokenFields.has(field) || shape.state_positions.empty()) return begun_or_ended;
  IntervalSet asked = shape.state_positions;
  int64_t end = 0;
  for (const int64_t length : spec_.documents.lengths) {
    end += length;
    if (shape.final_states) asked.unite(Range{end - 1, end});
  }
  return intersect(asked, layout_.shard(rank())).size();
}

int64_t AttentionPlan::halo_rows(int64_t width) const {
  int64_t rows = 0;
  const Halo halo = make_halo(spec_.documents.lengths, layout_, width);
  for (const RowMessage& message : halo.ranks[static_cast<size_t>(rank())].receive) rows += message.tokens.size();
  return rows;
}

HaloExchange& AttentionPlan::halo_exchange(int64_t width, DType element, int64_t columns) {
  PlannedHalo& planned = halos_[width];
  if (!planned.exchange) {
    const Halo halo = make_halo(spec_.documents.lengths, layout_, width);
    verify_halo(halo);
    planned.largest_message = largest_message(halo.ranks);
    planned.exchange = std::make_unique<HaloExchange>(halo, rank(), *endpoint_);
  }
  uint64_t& hash = kinds_of_halos_[{width, element, columns}];
  if (hash == 0) {
    const std::string kind = "a convolution of width " + std::to_string(width) + " of " + std::to_string(columns) +
                             " columns, " + std::string(name_of(element));
    endpoint_->agree(kind, planned.largest_message * columns * size_of(accumulator_of(element)));
    hash = Digest().add(kind).value();
  }
  endpoint_->set_kind(hash);
  return *planned.exchange;
}

RelayoutExchange& AttentionPlan::relayout_to(const Layout& to, DType element, int64_t columns) {
  auto planned = std::find_if(relayouts_.begin(), relayouts_.end(), [&](const auto& known) { return known.to == to; });
  if (planned == relayouts_.end()) {
    const Relayout change = make_relayout(layout_, to);
    verify_relayout(change);
    relayouts_.push_back(
        {to, std::make_unique<RelayoutExchange>(change, rank(), *endpoint_), largest_message(change.ranks), {}});
    planned = std::prev(relayouts_.end());
  }
  uint64_t& hash = planned->hashes[{element, columns}];
  if (hash == 0) {
    const std::string kind = "a change of layout from " + layout_.name() + " to " + to.name() + " of " +
                             std::to_string(columns) + " columns, " + std::string(name_of(element));
    Digest digest;
    for (int r = 0; r < ranks(); ++r) {
      for (const Run& run : to.runs(r)) digest.add(r).add(run.base).add(run.stride).add(run.count);
    }
    endpoint_->agree(kind + ", " + std::to_string(digest.value()),
                     planned->largest_message * columns * size_of(element));
    hash = digest.add(kind).value();
  }
  endpoint_->set_kind(hash);
  return *planned->exchange;
}

double AttentionPlan::largest_of_ranks(double mine) {
  static const std::string kind = "the largest number of all ranks";
  static const uint64_t hash = Digest().add(kind).value();
  endpoint_->begin_call();
  if (!compares_numbers_) endpoint_->agree(kind, sizeof mine);
  compares_numbers_ = true;
  endpoint_->set_kind(hash);
  return weft::largest_of_ranks(*endpoint_, mine);
}

Executor& AttentionPlan::executor(const CallKind& kind) {
  Known& known = kinds_[kind];
  if (!known.executor) {
    // Fast paths of the CPU have no fp64, and nothing for whole rows of scores.
    const bool plain = find_method(method_).reference;
    const kernels::KernelSet& kernels = kernels_for({kind.device, kind.device_index}, kind.element, plain);
    if (plain && !kernels.memory().on_host()) {
      throw Error(ErrorCode::unsupported, "method " + method_ +
                                              " is a reference and computes in main memory; these tensors "
                                              "are on " +
                                              std::string(kernels.memory().name()) + ": choose another method");
    }
    if (spec_.layer != Layer::softmax && !kernels.memory().on_host()) {
      throw Error(ErrorCode::unsupported, "layer " + std::string(name_of(spec_.layer)) +
                                              " is computed in main memory only, and these tensors are on " +
                                              std::string(kernels.memory().name()) + "; give tensors on the CPU");
    }
    const Schedule made = schedule(kind);
    int64_t largest = 0;
    for (const RankReport& r : verify_or_throw(made).ranks) largest = std::max(largest, r.largest_message);
    endpoint_->agree(describe(kind), largest);
    const Memory& memory = kernels.memory();
    BufferPool& pool = pools_.try_emplace(&memory, false, memory).first->second;
    known.hash = Digest().add(describe(kind)).value();
    known.executor = std::make_unique<Executor>(made, rank(), *endpoint_, kernels, pool);
  }
  endpoint_->set_kind(known.hash);
  return *known.executor;
}

}  // namespace weft
