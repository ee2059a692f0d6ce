#include "weft/execute/check.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/execute/dense.h"
#include "weft/execute/dense_recurrence.h"
#include "weft/execute/member_of.h"
#include "weft/execute/mirror.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/stop_watcher.h"

namespace weft {
namespace {

// ---- tensors of the ranks

const Layout& layout_of(const Problem& problem, Field field) {
  return kKeyFields.has(field) ? problem.key_layout : problem.query_layout;
}

HostTensor make(const Problem& problem, Field field, int64_t rows) {
  return {problem.type_of(field, Form::whole), rows, problem.heads_of(field), problem.columns_of(field)};
}

bool is_parameter(Field field) { return field == Field::u || field == Field::du; }

// The tokens that a field of states has rows for.
IntervalSet rows_of_states(const Problem& problem, Field field) {
  return problem.rows_among(Range{0, layout_of(problem, field).tokens()}, field);
}

// Where the rows of a field are: of the tokens of a rank, in local order.
std::vector<int64_t> rows_of(const Problem& problem, Field field, int rank) {
  if (is_parameter(field)) return {0};
  if (!kDocumentFields.has(field)) {
    const auto positions = layout_of(problem, field).positions(rank);
    return {positions.begin(), positions.end()};
  }
  std::vector<int64_t> rows;
  const IntervalSet all = rows_of_states(problem, field),
                    mine = intersect(all, IntervalSet(layout_of(problem, field).shard(rank)));
  for (const Range& range : mine.ranges()) {
    for (int64_t n = 0; n < range.size(); ++n) rows.push_back(all.rank_of(range.begin) + n);
  }
  return rows;
}

HostTensor make_global(const Problem& problem, Field field) {
  if (is_parameter(field)) return make(problem, field, 1);
  return make(problem, field,
              kDocumentFields.has(field) ? rows_of_states(problem, field).size() : layout_of(problem, field).tokens());
}

int64_t bytes_per_row(const HostTensor& tensor) { return tensor.heads * tensor.columns * size_of(tensor.type); }

HostTensor shard_of(const Problem& problem, Field field, int rank, const HostTensor& global) {
  const std::vector<int64_t> rows = rows_of(problem, field, rank);
  HostTensor local = make(problem, field, static_cast<int64_t>(rows.size()));
  const int64_t bytes = bytes_per_row(global);
  for (size_t n = 0; n < rows.size(); ++n)
    std::copy_n(global.bytes.begin() + rows[n] * bytes, bytes, local.bytes.begin() + static_cast<int64_t>(n) * bytes);
  return local;
}

void unshard(const Problem& problem, Field field, int rank, const HostTensor& local, HostTensor& global) {
  const std::vector<int64_t> rows = rows_of(problem, field, rank);
  const int64_t bytes = bytes_per_row(global);
  for (size_t n = 0; n < rows.size(); ++n)
    std::copy_n(local.bytes.begin() + static_cast<int64_t>(n) * bytes, bytes, global.bytes.begin() + rows[n] * bytes);
}

void fill_normal(HostTensor& tensor, uint64_t seed, uint64_t stream) {
  Random random(seed, stream);
  for (int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, random.normal());
}

// A rank's shards of everything: `local` holds what the rank gives, and room for what it gets.
void run_rank(const Schedule& schedule, Endpoint& endpoint, const kernels::KernelSet& kernels,
              const ExecuteOptions& options, CheckTensors& local, CheckReport& report) {
  const Problem& problem = schedule.problem();
  const int rank = endpoint.rank();
  BufferPool pool(options.poison, kernels.memory());
  Executor executor(schedule, rank, endpoint, kernels, pool, options);
  const Mirror q(pool, local.q), k(pool, local.k), v(pool, local.v);
  const Mirror out(pool, local.out), lse(pool, local.lse);
  const auto run = executor.start();
  Inputs inputs = {.q = {q.data()},
                   .k = {k.data()},
                   .v = {v.data()},
                   .g = {local.g.data()},  // these are of linear layers, which compute in main memory
                   .beta = {local.beta.data()},
                   .a = {local.a.data()},
                   .b = {local.b.data()},
                   .initial_state = {local.initial_state.data()},
                   .dfinal_state = {local.dfinal_state.data()},
                   .u = {local.u.data()}};
  run->forward(inputs, {.out = out.data(), .lse = lse.data(), .final_state = local.final_state.data()});
  out.download(), lse.download();
  if (problem.backward) {
    const Mirror dout(pool, local.dout), dq(pool, local.dq), dk(pool, local.dk), dv(pool, local.dv);
    inputs.out = {out.data()}, inputs.lse = {lse.data()}, inputs.dout = {dout.data()};
    run->backward(inputs, {.dq = dq.data(),
                           .dk = dk.data(),
                           .dv = dv.data(),
                           .dg = local.dg.data(),
                           .dbeta = local.dbeta.data(),
                           .da = local.da.data(),
                           .db = local.db.data(),
                           .dinitial_state = local.dinitial_state.data(),
                           .du = local.du.data()});
    dq.download(), dk.download(), dv.download();
  }
  report.peak_bytes[static_cast<size_t>(rank)] = run->peak_bytes();
  report.waiting_seconds[static_cast<size_t>(rank)] = run->waiting_seconds();
}

void execute(const Schedule& schedule, const kernels::KernelSet& kernels, const CheckOptions& options,
             CheckReport& report) {
  const Problem& problem = schedule.problem();
  const size_t ranks = static_cast<size_t>(schedule.ranks());
  CheckTensors& all = report.tensors;
  std::vector<CheckTensors> locals(ranks);
  report.peak_bytes.assign(ranks, 0);
  report.waiting_seconds.assign(ranks, 0);
  ThreadTransport transport(schedule.ranks());
  const StopWatcher watcher(options.stop, transport);
  run_threads(transport, [&](int rank) {
    CheckTensors& local = locals[static_cast<size_t>(rank)];
    const auto room = [&](Field field) {
      local.of(field) = make(problem, field, static_cast<int64_t>(rows_of(problem, field, rank).size()));
    };
    constexpr Fields kResults = Field::out | Field::lse;  // of forward, which backward may take
    const Fields given = Fields::from_bits(problem.inputs_of(problem.backward).bits() & ~kResults.bits());
    given.for_each([&](Field field) { local.of(field) = shard_of(problem, field, rank, all.of(field)); });
    (problem.results_of(false) | kResults).for_each(room);
    if (traits_of(problem.layer).bonus) local.u = all.u, room(Field::du);
    if (problem.backward) problem.results_of(true).for_each(room);
    run_rank(schedule, transport.endpoint(rank), kernels, options.execute, local, report);
  });
  const auto gather = [&](Field field) {
    HostTensor& global = all.of(field) = make_global(problem, field);
    for (size_t rank = 0; rank < ranks; ++rank)
      unshard(problem, field, static_cast<int>(rank), locals[rank].of(field), global);
  };
  gather(Field::out);
  if (problem.gives_states()) gather(Field::final_state);
  if (problem.return_lse) gather(Field::lse);
  if (problem.backward) problem.results_of(true).for_each(gather);
  if (!problem.backward || !traits_of(problem.layer).bonus) return;
  all.du = make_global(problem, Field::du);
  for (int64_t i = 0; i < all.du.elements(); ++i) {
    double sum = 0;
    for (const CheckTensors& local : locals) sum += local.du.at(i);
    all.du.set(i, sum);
  }
}

// ---- comparison

double difference(double a, double b) {
  if (a == b) return 0;  // infinities of one sign too
  return std::abs(a - b);
}

// The larger, and NaN where one is NaN.
double larger(double a, double b) { return b > a || std::isnan(b) ? b : a; }

double largest(const std::vector<double>& values) {
  double result = 0;
  for (double x : values) {
    if (std::isfinite(x)) result = std::max(result, std::abs(x));
  }
  return result;
}

// Binary digits of the type's numbers: fewer are coarser.
int digits_of(DType type) { return type == DType::fp64 ? 53 : type == DType::fp32 ? 24 : type == DType::fp16 ? 11 : 8; }

// Distance between neighbouring numbers of the type at this magnitude.
double spacing(DType type, double magnitude) {
  if (magnitude == 0) return 0;
  return std::ldexp(1.0, std::ilogb(magnitude) - (digits_of(type) - 1));
}

// The type whose plain attention the error is compared with.
DType coarser_of_element_and_wire(const Problem& problem) {
  return digits_of(problem.wire) < digits_of(problem.element) ? problem.wire : problem.element;
}

// What travelling in a type narrower than the accumulator may add: a unit of the wire for every rank that a partial
// result passes or that adds its own. Rounding costs half a unit, so there is room for partials of twice the range. The same
// again for kernels that round each block's results. lse is never lowered.
double wire_error(const Problem& problem, DType partial, Field field, double range) {
  double error = 0;
  for (const DType type : {problem.wire, partial}) {
    if (type != problem.accumulator() && field != Field::lse) error += problem.ranks() * spacing(type, range);
  }
  return error;
}

struct Reference {
  const std::vector<double>& exact;
  const std::vector<double>& plain;  // in the coarser type of element and wire, lse in fp32; empty for fp64
};

TensorError compare(const Problem& problem, DType partial, Field field, const HostTensor& tensor,
                    const Reference& reference) {
  TensorError error;
  error.name = name_of(field);
  const Layout& layout = layout_of(problem, field);
  error.by_rank_and_head.assign(static_cast<size_t>(layout.ranks() * tensor.heads), 0);
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    for (int64_t position : rows_of(problem, field, rank)) {
      for (int64_t head = 0; head < tensor.heads; ++head) {
        double& worst = error.by_rank_and_head[static_cast<size_t>(rank * tensor.heads + head)];
        for (int64_t c = 0; c < tensor.columns; ++c) {
          const int64_t i = (position * tensor.heads + head) * tensor.columns + c;
          worst = larger(worst, difference(tensor.at(i), reference.exact[static_cast<size_t>(i)]));
        }
        error.max_abs = larger(error.max_abs, worst);
      }
    }
  }
  // Of dg, and where rows mix, small numbers are differences of sums of about size 1.
  const double least = field == Field::dg || mixes_rows(problem.layer) ? 1 : 0;
  const double range = std::max(largest(reference.exact), least);
  error.max_rel = error.max_abs == 0 ? 0 : error.max_abs / range;
  if (problem.element == DType::fp64) {
    error.bound = 1e-12 * range;
    return error;
  }
  double plain = 0;
  for (size_t i = 0; i < reference.plain.size(); ++i) {
    plain = std::max(plain, difference(reference.plain[i], reference.exact[i]));
  }
  // Where rows mix, a chunk is solved for at once: rounded scores of its tokens with one another pass through the inverse of
  // a triangular matrix, which the plain recurrence, token by token, does not have. Seen are up to 8 times its error.
  const double sums = mixes_rows(problem.layer) ? 12 : 2;
  error.bound = sums * plain + 2 * spacing(tensor.type, range) + wire_error(problem, partial, field, range);
  return error;
}

void compare_recurrence(const Problem& problem, const StopFlag* stop, CheckReport& report) {
  const DType partial = problem.accumulator();
  const CheckTensors& t = report.tensors;
  RecurrenceInputs inputs;
  inputs.q = t.q.to_fp64(), inputs.k = t.k.to_fp64(), inputs.v = t.v.to_fp64();
  inputs.g = t.g.to_fp64(), inputs.beta = t.beta.to_fp64(), inputs.a = t.a.to_fp64(), inputs.b = t.b.to_fp64();
  inputs.initial_state = t.initial_state.to_fp64(), inputs.u = t.u.to_fp64();
  if (problem.backward) inputs.dout = t.dout.to_fp64(), inputs.dfinal_state = t.dfinal_state.to_fp64();
  const DenseRecurrence exact = dense_recurrence(problem, inputs, DType::fp64, stop);
  DenseRecurrence plain;
  if (problem.element != DType::fp64) plain = dense_recurrence(problem, inputs, DType::fp32, stop);
  const auto add = [&](Field field) {
    report.errors.push_back(compare(problem, partial, field, t.of(field), {exact.of(field), plain.of(field)}));
    report.ok &= report.errors.back().ok();
  };
  problem.results_of(false).for_each(add);
  if (problem.backward) problem.results_of(true).for_each(add);
  if (problem.backward && traits_of(problem.layer).bonus) add(Field::du);
}

void compare(const Problem& problem, DType partial, const StopFlag* stop, CheckReport& report) {
  if (problem.layer != Layer::softmax) return compare_recurrence(problem, stop, report);
  const CheckTensors& t = report.tensors;
  const DenseShape shape{problem.heads, problem.kv_heads, problem.dim, problem.dim_v, problem.softmax_scale()};
  DenseInputs inputs{t.q.to_fp64(), t.k.to_fp64(), t.v.to_fp64(), {}};
  if (problem.backward) inputs.dout = t.dout.to_fp64();
  const DenseAttention exact = dense_attention(problem.mask, shape, inputs, DType::fp64, stop);
  DenseAttention plain;
  if (problem.element != DType::fp64) {
    const DType coarser = coarser_of_element_and_wire(problem);
    plain = dense_attention(problem.mask, shape, inputs, coarser, stop);
    // lse is fp32 whatever the element type and the wire, so its bound is that of plain fp32.
    inputs.dout.clear();
    if (problem.return_lse && coarser != DType::fp32) {
      plain.lse = dense_attention(problem.mask, shape, inputs, DType::fp32, stop).lse;
    }
  }
  const auto add = [&](Field field, const HostTensor& tensor, std::vector<double> DenseAttention::*member) {
    report.errors.push_back(compare(problem, partial, field, tensor, {exact.*member, plain.*member}));
    report.ok &= report.errors.back().ok();
  };
  add(Field::out, t.out, &DenseAttention::out);
  if (problem.return_lse) add(Field::lse, t.lse, &DenseAttention::lse);
  if (!problem.backward) return;
  add(Field::dq, t.dq, &DenseAttention::dq);
  add(Field::dk, t.dk, &DenseAttention::dk);
  add(Field::dv, t.dv, &DenseAttention::dv);
}

}  // namespace

namespace {

// Vectors of so many columns, each made of length 1.
void normalise(HostTensor& tensor, int64_t columns) {
  for (int64_t begin = 0; begin < tensor.elements(); begin += columns) {
    double squares = 0;
    for (int64_t i = begin; i < begin + columns; ++i) squares += tensor.at(i) * tensor.at(i);
    const double length = std::sqrt(squares);
    for (int64_t i = begin; i < begin + columns && length > 0; ++i) tensor.set(i, tensor.at(i) / length);
  }
}

// What keeps states from growing, as models have it.
void fill_mixing(const Problem& problem, uint64_t seed, CheckTensors& tensors) {
  Random random(seed, 5);
  const auto strength = [&] { return 1 / (1 + std::exp(random.normal())); };
  if (const int64_t blocks = column_blocks(problem.layer); blocks > 0) {  // of both signs, a row below 1 together
    tensors.a = make_global(problem, Field::a);
    for (int64_t i = 0; i < tensors.a.elements(); ++i)
      tensors.a.set(i, (2 * strength() - 1) / static_cast<double>(blocks));
    return;
  }
  if (traits_of(problem.layer).mixing == Mixing::delta) {
    normalise(tensors.k, problem.dim);
    tensors.beta = make_global(problem, Field::beta);
    for (int64_t i = 0; i < tensors.beta.elements(); ++i) tensors.beta.set(i, 2 * strength());
    return;
  }
  tensors.a = make_global(problem, Field::a), tensors.b = make_global(problem, Field::b);
  fill_normal(tensors.a, seed, 6);
  normalise(tensors.a, problem.dim);
  for (int64_t row = 0; row < tensors.b.rows * tensors.b.heads; ++row) {
    const double factor = -strength();
    for (int64_t i = row * problem.dim; i < (row + 1) * problem.dim; ++i) tensors.b.set(i, factor * tensors.a.at(i));
  }
}

}  // namespace

HostTensor& CheckTensors::of(Field field) {
  if (HostTensor* member = member_of(*this, field)) return *member;
  throw Error(ErrorCode::internal, std::string(name_of(field)) + " is no tensor of a check");
}

CheckTensors random_inputs(const Problem& problem, uint64_t seed) {
  CheckTensors tensors;
  tensors.q = make_global(problem, Field::q);
  tensors.k = make_global(problem, Field::k);
  tensors.v = make_global(problem, Field::v);
  tensors.dout = make_global(problem, Field::dout);
  fill_normal(tensors.q, seed, 0);
  fill_normal(tensors.k, seed, 1);
  fill_normal(tensors.v, seed, 2);
  fill_normal(tensors.dout, seed, 3);
  if (has_gates(problem.layer)) {
    tensors.g = make_global(problem, Field::g);
    Random random(seed, 4);
    for (int64_t i = 0; i < tensors.g.elements(); ++i) tensors.g.set(i, -std::exp(1.5 * random.normal() - 4));
  }
  if (traits_of(problem.layer).mixing != Mixing::none) fill_mixing(problem, seed, tensors);
  if (traits_of(problem.layer).bonus) fill_normal(tensors.u = make_global(problem, Field::u), seed, 9);
  for (const Field field : {Field::initial_state, Field::dfinal_state}) {
    if (!problem.inputs_of(true).has(field)) continue;
    fill_normal(tensors.of(field) = make_global(problem, field), seed, field == Field::initial_state ? 7 : 8);
  }
  return tensors;
}

CheckReport check_schedule(const Schedule& schedule, const CheckOptions& options) {
  return check_schedule(schedule, random_inputs(schedule.problem(), options.seed), options);
}

CheckReport check_schedule(const Schedule& schedule, CheckTensors inputs, const CheckOptions& options) {
  const Problem& problem = schedule.problem();
  CheckReport report;
  report.tensors = std::move(inputs);
  const kernels::KernelSet& kernels = options.kernels                  ? *options.kernels
                                      : problem.element == DType::fp64 ? kernels::reference_kernels()
                                                                       : kernels::cpu_kernels();
  execute(schedule, kernels, options, report);
  if (options.compare) compare(problem, kernels.partial(problem.element), options.stop, report);
  return report;
}

}  // namespace weft
