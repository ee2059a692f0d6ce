#include "weft/methods/linear/choice.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "weft/base/error.h"
#include "weft/methods/linear/chain_plan.h"
#include "weft/methods/linear/head_share.h"

namespace weft {
namespace {

using methods::LinearWork;

// One phase of one rank, in seconds and bytes.
struct ScanPhase {
  ScanPhase(const Configuration& c, const Machine& machine, bool backward)
      : work(methods::linear_work(c.layer, backward)), ranks(c.ranks), heads(c.heads), crosses(c.ranks > 1) {
    const double rows = static_cast<double>((c.tokens + c.ranks - 1) / c.ranks), dim = static_cast<double>(c.dim),
                 dim_v = static_cast<double>(c.dim_v), all = static_cast<double>(c.heads);
    // Of a token: what it reads of the chunk before it, and of the state, and what it writes. Backward is 2.5 times that.
    constexpr double kChunk = 32, kBackward = 2.5;
    const double products = kChunk * (dim + dim_v) + work.products * dim * dim_v;
    const double steps = rows * static_cast<double>(c.householders);
    scan = steps * all * products * (backward ? kBackward : 1) * 2 / machine.operations;
    compose = all * (mixes_rows(c.layer) ? dim * dim * dim_v : dim * dim_v) * 2 / machine.operations;
    state = static_cast<double>(c.heads * c.bytes_per_row(Field::state, Form::whole));
    transition =
        has_transition(c.layer) ? static_cast<double>(c.heads * c.bytes_per_row(Field::transition, Form::whole)) : 0;
    const auto row = [&](Fields fields, Form form = Form::whole) {
      return rows * static_cast<double>(methods::wire_bytes_of_shares(c, fields, form, ranks));
    };
    to_heads = backward ? row(Field::dout) : row(Field::q) + row(c.key_inputs());
    const Fields summed = methods::summed_over_ranks(c, ranks), gradients = c.key_gradients() | Field::dq;
    to_home = backward ? row(gradients.without(summed)) + row(summed, Form::accumulating) : row(Field::out);
  }

  // A summary of all, and the transition of a rank between others.
  double summaries() const { return crosses ? scan * (work.summary + (ranks > 2 ? work.transition : 0)) / 100 : 0; }
  // The heads that are scanned before anything has come, and what correcting them takes.
  double first() const { return static_cast<double>(methods::first_heads(heads)) / static_cast<double>(heads); }
  double correction() const { return crosses ? scan * first() * work.correction / 100 : 0; }

  LinearWork work;
  int ranks;
  int64_t heads;
  bool crosses;
  double scan = 0, compose = 0, state = 0, transition = 0;
  double to_heads = 0, to_home = 0;  // bytes of a rank's rows
};

double time_of(const Network& network, double bytes) { return network.latency + bytes / network.bandwidth; }

int rounds_of(int ranks) {
  int rounds = 0;
  for (int64_t d = 1; d < ranks; d *= 2) ++rounds;
  return rounds;
}

// Blocks of heads, made ahead as far as the ranks in a row reach; then a block's message on every border before the last rank.
void add_chain(const ScanPhase& p, const Machine& m, int64_t blocks, LinearTime& time) {
  const double count = static_cast<double>(blocks), ahead = static_cast<double>(std::min<int64_t>(blocks, p.ranks - 1));
  const double work = p.scan + p.summaries() * ahead / count;
  time.work += work;
  if (!p.crosses) return;
  const double hop = time_of(m.network, p.state / count), near = m.node > 1 ? time_of(m.inside, p.state / count) : hop;
  const int nodes = (p.ranks + m.node - 1) / m.node;
  time.waiting += (nodes - 1) * hop + (p.ranks - nodes) * near + std::max(0.0, (count - 1) * hop - work);
}

void add_gather(const ScanPhase& p, const Machine& m, LinearTime& time) {
  const double others = p.ranks - 1, joins = std::max(0.0, others - 1);
  time.work += p.scan + p.summaries() + p.correction() + joins * p.compose;
  if (!p.crosses) return;
  const double bytes = others * p.state + joins * p.transition;
  time.waiting += std::max(0.0, others * m.network.latency + bytes / m.network.bandwidth - p.first() * p.scan);
}

void add_doubling(const ScanPhase& p, const Machine& m, LinearTime& time) {
  const int rounds = rounds_of(p.ranks);
  time.work += p.scan + p.summaries() + p.correction() + 2 * rounds * p.compose;
  if (!p.crosses) return;
  const double round = time_of(m.network, p.state + p.transition);
  time.waiting += std::max(0.0, round - p.first() * p.scan) + (rounds - 1) * round;
}

void add_hierarchical(const ScanPhase& p, const Machine& m, LinearTime& time) {
  const int inside = rounds_of(m.node), between = rounds_of((p.ranks + m.node - 1) / m.node);
  time.work += p.scan + p.summaries() + p.correction() + (2 * (inside + between) + 1) * p.compose;
  const double near = time_of(m.inside, p.state + p.transition), far = time_of(m.network, p.state + p.transition);
  time.waiting +=
      std::max(0.0, near - p.first() * p.scan) + (inside - 1) * near + between * far + time_of(m.inside, p.state);
}

void add_trade(const ScanPhase& p, const Machine& m, LinearTime& time) {
  time.work += p.scan;
  const double others = p.ranks - 1;
  for (const double bytes : {p.to_heads, p.to_home})
    time.waiting += others * m.network.latency + bytes * others / p.ranks / m.network.bandwidth;
}

std::string in_ms(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g ms", 1e3 * seconds);
  return text;
}

std::string describe(const LinearTime& time) {
  return std::string(time.method) + ": " + in_ms(time.work) + " of work and " + in_ms(time.waiting) + " of waiting";
}

}  // namespace

LinearChoice choose_linear_method(const Configuration& c, const Machine& machine) {
  Machine m = machine;
  if (c.ranks <= m.node) m.network = m.inside;
  if (c.layer == Layer::softmax)
    throw Error(ErrorCode::usage, "the layer is softmax; methods of linear layers are for the others");
  LinearChoice choice;
  if (!c.mask.causal) {
    choice.method = c.ranks > 2 ? "all-scan" : "all-gather-state";
    choice.why = c.ranks > 2 ? "with a full mask each rank adds a share of the heads, which sends least"
                             : "with a full mask and at most two ranks one exchange sends no more than two do";
    return choice;
  }
  const auto times = [&](std::string_view method, auto&& add) {
    LinearTime time{method};
    for (const bool backward : {false, true}) {
      if (!backward || c.backward) add(ScanPhase(c, m, backward), time);
    }
    return time;
  };
  const auto fits = [&](std::string_view method, auto&& add) { choice.times.push_back(times(method, add)); };
  fits("all-scan", [&](const ScanPhase& p, LinearTime& t) { add_chain(p, m, methods::default_blocks(c.heads), t); });
  fits("chain", [&](const ScanPhase& p, LinearTime& t) { add_chain(p, m, 1, t); });
  fits("all-gather-state", [&](const ScanPhase& p, LinearTime& t) { add_gather(p, m, t); });
  fits("log-step", [&](const ScanPhase& p, LinearTime& t) { add_doubling(p, m, t); });
  if (m.node > 1 && m.node < c.ranks)
    fits("hierarchical", [&](const ScanPhase& p, LinearTime& t) { add_hierarchical(p, m, t); });
  if (c.heads % c.ranks == 0) fits("head-exchange", [&](const ScanPhase& p, LinearTime& t) { add_trade(p, m, t); });
  std::stable_sort(choice.times.begin(), choice.times.end(),
                   [](const LinearTime& a, const LinearTime& b) { return a.seconds() < b.seconds(); });
  choice.method = choice.times[0].method;
  choice.why =
      "the least time by latency and bandwidth, " + describe(choice.times[0]) + "; next " + describe(choice.times[1]);
  return choice;
}

}  // namespace weft
