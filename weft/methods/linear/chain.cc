// The state passed from fragment to fragment: LASP's chain, and ZeCO's All-Scan, which is the chain cut in blocks of heads.
//
//   5 ranks, blocks = 3 (cell: the block of heads whose state the rank receives, composes with its own, and sends)
//            rank 0   rank 1   rank 2   rank 3   rank 4
//   step 0     b0        |        |        |        |      every rank scans its own tokens meanwhile
//   step 1     b1       b0
//   step 2     b2       b1       b0
//   step 3              b2       b1       b0
//   step 4                       b2       b1       b0     P + blocks - 2 messages on the critical path
//
// Each rank sends one state and receives one, whatever P, and its own transition stays at home; backward the same against
// the order of the sequence with the gradient of the state. The local work comes first and what enters is added to it after
// (LASP as published receives first, so that ranks work one after another; its released code also forms positions in the
// type of the activations, which rounds decays, and drops tails of shards that are no multiple of its tile). Only the last
// document of a fragment passes on, and a border that no document crosses carries nothing.
//
// On zigzag the chain is a snake: down the first fragments of all ranks and back up the second ones.
//
// LASP: Sun, Qin, Li, Shen, Qiao, Zhong 2024, arXiv 2404.02882. All-Scan: ZeCO, Chou et al. 2025, arXiv 2507.01004, cut by
// heads here, which suits every transition. Volume: 4 H dk dv bytes over each of the P-1 borders that a document crosses,
// in each direction; messages: blocks per border.
#include "weft/methods/linear/fragments.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

struct Chain {
  SharedFragments fragments;
  int blocks = 1;  // of heads
};

Set block_of(Builder& b, int n, int blocks) {
  const int64_t heads = b.problem().heads;
  return b.set(Range{heads * n / blocks, heads * (n + 1) / blocks});
}

// Where the states of one phase go: down the fragments, or up with their gradients.
class Links {
 public:
  Links(Builder& b, const Chain& chain, Field field, int towards)
      : b_(b), chain_(chain), field_(field), towards_(towards) {}

  // Everything that the fragment's neighbour sends for this run, block by block, or what this rank has kept for it.
  std::vector<Value> receive(const LocalFragment& to, Set run) {
    if (run.empty()) return {};
    const int from = rank_of(to.number - towards_);
    if (from == b_.rank()) return std::move(kept_);
    std::vector<Value> states;
    for (int n = 0; n < chain_.blocks; ++n) {
      states.push_back(b_.whole(field_, run, block_of(b_, n, chain_.blocks)));
      b_.exchange(lane_of(to.number - towards_)).receive(from, states.back()).issue();
    }
    return states;
  }

  // To the next fragment; kept where that is on this rank too.
  void send(const LocalFragment& from, const Slice& state) {
    const int to = rank_of(from.number + towards_);
    Exchange exchange = b_.exchange(lane_of(from.number));
    exchange.send(to, state);
    if (to == b_.rank()) {
      if (from.number != last_) kept_.clear(), last_ = from.number;
      kept_.push_back(b_.whole(field_, Set(b_.pool(), state.tokens), Set(b_.pool(), state.heads)));
      exchange.receive(to, kept_.back());
    }
    exchange.issue();
  }

 private:
  int rank_of(int fragment) const { return (*chain_.fragments)[fragment].rank; }
  // A block leaves while the next one is awaited: what a fragment sends is on another lane than what comes to it.
  static int lane_of(int sender) { return sender % 2; }

  Builder& b_;
  const Chain& chain_;
  Field field_;
  int towards_;
  int last_ = -1;
  std::vector<Value> kept_;
};

Steps write(Chain chain, Builder& b) {
  std::vector<LocalFragment> own = local_fragments(b, *chain.fragments);
  {
    LinearPass pass(b);
    Links links(b, chain, Field::state, 1);
    pass.begin_forward(own);
    for (LocalFragment& f : own) {
      f.entering = links.receive(f, f.before);
      if (&f == &own.front()) {  // while the first state is on its way
        for (const LocalFragment& each : own) pass.scan(each);
      }
      for (int n = 0; n < chain.blocks; ++n) {
        const Set heads = block_of(b, n, chain.blocks);
        if (f.crossed) {
          const Value joined = b.compose(f.entering[n], f.state.at(f.tail, heads), f.transition.at(f.tokens, heads));
          links.send(f, joined);
        } else if (!f.after.empty()) {
          links.send(f, f.state.at(f.tail, heads));
        }
        if (!f.entering.empty()) pass.apply(f, f.entering[n]);
        co_yield Step{};
      }
      f.state.reset();
    }
    pass.finish_forward();
  }
  if (!b.problem().backward) co_return;

  b.begin_backward();
  LinearPass pass(b);
  Links links(b, chain, Field::dstate, -1);
  pass.begin_backward(own);
  for (size_t i = own.size(); i-- > 0;) {
    LocalFragment& f = own[i];
    const std::vector<Value> following = links.receive(f, f.after);
    if (&f == &own.back()) {
      for (const LocalFragment& each : own) pass.scan_backward(each);
    }
    for (int n = 0; n < chain.blocks; ++n) {
      const Set heads = block_of(b, n, chain.blocks);
      if (f.crossed) {
        const Value joined = b.compose(f.dstate.at(f.head, heads), following[n], f.transition.at(f.tokens, heads));
        links.send(f, joined);
      } else if (!f.before.empty()) {
        links.send(f, f.dstate.at(f.head, heads));
      }
      if (!following.empty()) pass.apply_backward(f, following[n]);
      co_yield Step{};
    }
    f.dstate.reset();
    f.transition.reset();
    f.entering.clear();
  }
  pass.finish_backward();
}

Writer make_writer(const std::shared_ptr<const Problem>& problem, int blocks) {
  const Chain chain{make_fragments(*problem), blocks};
  return [chain](int /*rank*/, Builder& b) { return write(chain, b); };
}

constexpr std::string_view kMasks = "causal, one document or packed ones";
constexpr std::string_view kNeeds = "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks";

}  // namespace

const Method chain = {
    .name = "chain",
    .family = Family::linear,
    .paper = "LASP, Sun, Qin, Li, Shen, Qiao, Zhong 2024, arXiv 2404.02882",
    .summary = "the state goes from rank to rank; each scans its own tokens first and adds what enters after",
    .masks = kMasks,
    .needs = kNeeds,
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) { return make_writer(problem, 1); },
};

const Method all_scan = {
    .name = "all-scan",
    .family = Family::linear,
    .paper = "ZeCO, Chou, Liu, Zhu, Wan, Li, Chu, Liu, Wu, Ma 2025, arXiv 2507.01004",
    .summary = "the chain in blocks of heads, so that a rank passes one on while it awaits the next",
    .masks = kMasks,
    .needs = kNeeds,
    .options = {MethodOption::integer("blocks", "auto", {.min = 1, .max = 65536},
                                      "of heads, each a message; auto: one for each head, at most 8", {"auto"})},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      const int64_t heads = problem->heads;
      const int64_t blocks = options.is("blocks", "auto") ? std::min<int64_t>(heads, 8) : options.integer("blocks");
      if (blocks > heads) {
        throw Error(ErrorCode::unsupported, "all-scan has " + std::to_string(heads) + " heads to cut in " +
                                                std::to_string(blocks) +
                                                " blocks; use at most as many blocks as heads");
      }
      return make_writer(problem, static_cast<int>(blocks));
    },
};

}  // namespace weft::methods
