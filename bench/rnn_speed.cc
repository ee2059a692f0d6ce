// Nonlinear recurrent networks by Newton's method (ParaRNN), over ranks as threads of one core each, and a plain loop over tokens in
// torch operators on one thread: times of each part, and how fast this machine copies memory.
//   rnn_speed [gru|lstm [RANKS [TOKENS [CHANNELS [ROUNDS]]]]]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "weft/base/freed_memory.h"
#include "weft/methods/registry.h"
#include "weft/torch/para_rnn.h"
#include "weft/transport/run_threads.h"
#include "weft/transport/thread_transport.h"

using namespace weft;

namespace {

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> all) {
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

struct Case {
  RnnCell cell;
  int ranks;
  int64_t tokens, channels;
  at::Tensor x = {}, a = {}, peephole = {};
};

at::Tensor token_loop(const Case& c) {
  at::Tensor h = at::zeros({c.channels}), cell = h;
  std::vector<at::Tensor> outs;
  const std::vector<at::Tensor> a = c.a.unbind(0), p = c.peephole.defined() ? c.peephole.unbind(0) : a;
  std::vector<std::vector<at::Tensor>> gates;  // of all tokens
  for (const at::Tensor& gate : c.x.unbind(1)) gates.push_back(gate.unbind(0));
  for (size_t t = 0; t < static_cast<size_t>(c.tokens); ++t) {
    const auto gate = [&](size_t i, const at::Tensor& read) { return gates[i][t].addcmul(a[i], read); };
    if (c.cell == RnnCell::gru) {
      const at::Tensor z = gate(0, h).sigmoid(), r = gate(1, h).sigmoid();
      h = at::lerp(h, gate(2, h * r).tanh(), z);
    } else {
      cell = at::lerp(gate(2, h).tanh(), cell, gate(0, h).addcmul(p[0], cell).sigmoid());
      h = gate(1, h).addcmul(p[1], cell).sigmoid() * cell.tanh();
    }
    outs.push_back(h);
  }
  return at::stack(outs);
}

struct Times {
  double forward = 0, backward = 0;
  int iterations = 0;
};

Times newton(const Case& c, const Schedule& schedule, const Halo& halo, at::Tensor& out) {
  Times times;
  ThreadTransport transport(c.ranks);
  out = at::empty({c.tokens, c.channels});
  run_threads(transport, [&](int rank) {
    BufferPool pool;
    const ScheduledSequence ranks(
        std::make_shared<Executor>(schedule, rank, transport.endpoint(rank), kernels::cpu_kernels(), pool),
        std::make_shared<HaloExchange>(halo, rank, transport.endpoint(rank)));
    const Range mine{c.tokens * rank / c.ranks, c.tokens * (rank + 1) / c.ranks};
    const auto leaf = [](const at::Tensor& t) { return t.defined() ? t.detach().clone().requires_grad_() : t; };
    const at::Tensor x = leaf(c.x.narrow(0, mine.begin, mine.size())), a = leaf(c.a), p = leaf(c.peephole);
    const at::Tensor dout = at::ones({mine.size(), c.channels});
    ranks.largest(0);  // all begin together
    RnnResult result;
    const double forward =
        seconds_of([&] { result = para_rnn(c.cell, {.x = x, .parameters = {.a = a, .peephole = p}}, ranks); });
    const double backward = seconds_of([&] { result.out.backward(dout); });
    out.narrow(0, mine.begin, mine.size()).copy_(result.out.detach());
    if (rank == 0) times = {forward, backward, result.iterations};
  });
  return times;
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int i, int64_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; };
  keep_freed_memory();  // as the trainer does
  at::set_num_threads(1);
  Case c{.cell = rnn_cell_of(argc > 1 ? argv[1] : "gru"),
         .ranks = static_cast<int>(number(2, 1)),
         .tokens = number(3, 8192),
         .channels = number(4, 256)};
  at::manual_seed(1);
  c.x = at::randn({c.tokens, 3, c.channels}), c.a = at::randn({3, c.channels}).mul(0.5);
  if (c.cell == RnnCell::lstm) c.peephole = at::randn({2, c.channels}).mul(0.5);
  Problem problem = self_attention(Mask::documents({c.tokens}, {.causal = true}),
                                   choose_layout("contiguous", "all-gather-state", {c.tokens}, c.ranks, {}), 1, 1, 1);
  problem.layer = c.cell == RnnCell::gru ? Layer::elementwise : Layer::pairwise;
  problem.dim_v = state_rows(c.cell) * c.channels;
  problem.backward = true;
  const Schedule schedule = make_schedule("all-gather-state", problem);
  const Halo halo = make_halo({c.tokens}, problem.query_layout, 2);
  at::Tensor out, looped;
  std::vector<double> forward, backward, loop;
  for (int64_t round = number(5, 5); round-- > 0;) {
    const Times times = newton(c, schedule, halo, out);
    forward.push_back(times.forward), backward.push_back(times.backward);
    if (round == 0)
      std::printf("%s, %d ranks, %lld tokens x %lld channels: %d iterations\n", name_of(c.cell), c.ranks,
                  static_cast<long long>(c.tokens), static_cast<long long>(c.channels), times.iterations);
    loop.push_back(seconds_of([&] { looped = token_loop(c); }));
  }
  const at::Tensor from = at::ones({1 << 24}), to = at::zeros({1 << 24});
  std::vector<double> copies;
  for (int i = 0; i < 9; ++i) copies.push_back(seconds_of([&] { to.copy_(from); }));
  std::printf("newton forward %.4f s, backward %.4f s; loop over tokens %.4f s forward; difference %.1e\n",
              median(forward), median(backward), median(loop), out.sub(looped).abs().max().item<double>());
  std::printf("copying 64 MiB: %.1f GB/s read and as much written\n", 64 * 1.048576e-3 / median(copies));
  return 0;
}
