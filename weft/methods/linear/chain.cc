// The state passed from fragment to fragment: LASP's chain, and ZeCO's All-Scan, which is the chain cut in blocks of heads.
//
//   3 ranks, blocks = 6 (cell: what the rank does; s: makes states, 0 .. 5: scans a block of heads and passes on its state)
//   rank 0   s s  2  3  4  5  0  1
//   rank 1   s s  0  2  3  4  5  1     the state of block 2 left rank 0 when it was scanned there
//   rank 2        0  1  2  3  4  5
//
// A scan begins with the state that enters and gives the one that leaves, so no work is done twice, except that the states of the
// first blocks are made ahead, by themselves: while these are scanned, those of the others are on their way. chain_plan.h finds
// how many blocks that takes and who does what when; `chain` itself, of one block, makes all states first. (LASP as published
// receives before it begins, so that ranks work one after another; its released code also forms positions in the type of the
// activations, which rounds decays, and drops tails of shards that are no multiple of its tile.)
//
// Each rank sends one state and receives one, whatever P, and its own transition stays at home; backward the same against
// the order of the sequence with the gradient of the state. Only the last document of a fragment passes on, and a border that
// no document crosses carries nothing.
//
// On zigzag the chain is a snake: down the first fragments of all ranks and back up the second ones.
//
// LASP: Sun, Qin, Li, Shen, Qiao, Zhong 2024, arXiv 2404.02882. All-Scan: ZeCO, Chou et al. 2025, arXiv 2507.01004, cut by
// heads here, which suits every transition. Volume: 4 H dk dv bytes over each of the P-1 borders that a document crosses,
// in each direction; messages: blocks per border.
#include "weft/methods/formulas/linear.h"
#include "weft/methods/linear/both_ways.h"
#include "weft/methods/linear/chain_plan.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

struct Chain {
  Chain(const Problem& problem, int blocks) : fragments(problem), down(problem, fragments, blocks, 1) {
    if (problem.backward) up.emplace(problem, fragments, blocks, -1);
  }
  Fragments fragments;
  ChainPlan down;
  std::optional<ChainPlan> up;
};
using SharedChain = std::shared_ptr<const Chain>;

// One of a rank's fragments, block by block of its heads.
struct ChainFragment : LocalFragment {
  ChainFragment(const LocalFragment& of, int blocks)
      : LocalFragment(of),
        coming(static_cast<size_t>(blocks)),
        own(coming.size()),
        transitions(coming.size()),
        entered(coming.size()) {}

  // Of the phase: what comes to the fragment, and its own state or dstate until it is passed on.
  std::vector<Value> coming, own;
  std::vector<Value> transitions;
  std::vector<Value> entered;  // the states, kept for backward
};

// One phase of one rank.
class Phase {
 public:
  Phase(Builder& b, const Fragments& all, const ChainPlan& plan, std::vector<ChainFragment>& own, int towards)
      : b_(b), all_(all), plan_(plan), own_(own), towards_(towards), pass_(b) {
    forward() ? pass_.open_forward() : pass_.open_backward();
  }

  void work(const ChainWork& work);
  void finish() { forward() ? pass_.finish_forward() : pass_.finish_backward(); }

 private:
  bool forward() const { return towards_ > 0; }
  Field field() const { return forward() ? Field::state : Field::dstate; }
  Set heads_of(const ChainWork& work) const {
    const int64_t heads = b_.problem().heads, blocks = plan_.blocks_of(work.fragment);
    return b_.set(Range{heads * work.block / blocks, heads * (work.block + 1) / blocks});
  }
  ChainFragment& own(int number) {
    return *std::find_if(own_.begin(), own_.end(), [&](const ChainFragment& f) { return f.number == number; });
  }
  void summarise(ChainFragment& f, size_t n, Set heads);
  void scan(ChainFragment& f, size_t n, Set heads);
  Value leaving(const ChainFragment& f, size_t n);
  void hand_on(const ChainWork& work, const Value& state);
  // A block leaves while the next one comes, and one goes down the ranks while another goes up.
  int lane_of(int sender) const { return sender % 2 + (all_[sender].rank < all_[sender + towards_].rank ? 0 : 2); }

  Builder& b_;
  const Fragments& all_;
  const ChainPlan& plan_;
  std::vector<ChainFragment>& own_;
  const int towards_;
  LinearPass pass_;
};

void Phase::summarise(ChainFragment& f, size_t n, Set heads) {
  f.own[n] = forward() ? pass_.state_of(f, heads) : pass_.dstate_of(f, heads);
  if (f.crossed && f.transitions[n].empty()) f.transitions[n] = b_.transition_of(pass_.kv.at(f.tokens, heads));
}

void Phase::scan(ChainFragment& f, size_t n, Set heads) {
  Value leaving;
  if (plan_.leaves(f.number) && !plan_.is_ahead(static_cast<int>(n))) {
    const Set part = forward() ? f.tail : f.head;
    f.own[n] = leaving = b_.whole(field(), f.crossed ? f.coming[n].tokens() | part : part, heads);
  }
  if (forward()) {
    pass_.scan(f, heads, f.coming[n], leaving);
    if (b_.problem().backward) f.entered[n] = f.coming[n];
  } else {
    pass_.scan_backward(f, heads, f.entered[n], f.coming[n], leaving);
    f.entered[n].reset();
  }
  f.coming[n].reset();
}

// What leaves: the scan has given it, or it is the own state joined with what came.
Value Phase::leaving(const ChainFragment& f, size_t n) {
  if (!f.crossed || !plan_.is_ahead(static_cast<int>(n))) return f.own[n];
  return forward() ? b_.compose(f.coming[n], f.own[n], f.transitions[n])
                   : b_.compose(f.own[n], f.coming[n], f.transitions[n]);
}

void Phase::hand_on(const ChainWork& work, const Value& state) {
  const int next = work.fragment + towards_, to = all_[next].rank;
  if (to == b_.rank()) {
    own(next).coming[static_cast<size_t>(work.block)] = state;
  } else {
    b_.exchange(lane_of(work.fragment)).send(to, state).issue();
  }
}

void Phase::work(const ChainWork& work) {
  ChainFragment& f = own(work.fragment);
  const size_t n = static_cast<size_t>(work.block);
  const Set heads = heads_of(work);
  switch (work.kind) {
    case ChainWork::Kind::receive: {
      const int last = f.number - towards_;
      f.coming[n] = b_.whole(field(), forward() ? f.before : f.after, heads);
      b_.exchange(lane_of(last)).receive(all_[last].rank, f.coming[n]).issue();
      return;
    }
    case ChainWork::Kind::summarise: return summarise(f, n, heads);
    case ChainWork::Kind::pass:
      hand_on(work, leaving(f, n));
      f.own[n].reset();
      if (!b_.problem().backward) f.transitions[n].reset();
      return;
    case ChainWork::Kind::scan: return scan(f, n, heads);
  }
}

Steps write(SharedChain chain, Builder& b) {
  std::vector<ChainFragment> own;
  for (const LocalFragment& f : local_fragments(b, chain->fragments))
    own.emplace_back(f, chain->down.blocks_of(f.number));
  {
    Phase forward(b, chain->fragments, chain->down, own, 1);
    for (const ChainWork& work : chain->down.of(b.rank())) {
      forward.work(work);
      if (work.kind == ChainWork::Kind::scan) co_yield Step{};
    }
    forward.finish();
  }
  if (!chain->up) co_return;

  for (ChainFragment& f : own) {  // those that backward needs have been made
    for (size_t n = 0; n < f.transitions.size(); ++n) {
      if (!chain->up->is_ahead(static_cast<int>(n))) f.transitions[n].reset();
    }
  }
  b.begin_backward();
  Phase backward(b, chain->fragments, *chain->up, own, -1);
  for (const ChainWork& work : chain->up->of(b.rank())) {
    backward.work(work);
    if (work.kind == ChainWork::Kind::scan) co_yield Step{};
  }
  backward.finish();
}

Writer make_chain_writer(const std::shared_ptr<const Problem>& problem, int blocks) {
  const auto chain = std::make_shared<const Chain>(*problem, blocks);
  return [chain](int /*rank*/, Builder& b) { return write(chain, b); };
}

int64_t blocks_asked(int64_t heads, const MethodOptions& options) {
  const int64_t blocks = options.is("blocks", "auto") ? default_blocks(heads) : options.integer("blocks");
  if (blocks <= heads) return blocks;
  throw Error(ErrorCode::unsupported, "all-scan has " + std::to_string(heads) + " heads to cut in " +
                                          std::to_string(blocks) + " blocks; use at most as many blocks as heads");
}

// Without an order there is no chain to cut: ranks add a share of the heads each.
Writer make_reduction_writer(const Problem& problem, const MethodOptions& options) {
  if (!options.is("blocks", "auto")) {
    throw Error(ErrorCode::unsupported,
                "all-scan with a full mask gives each rank a share of the heads; leave option blocks out");
  }
  const SharedFragments fragments = make_fragments(problem);
  return [fragments](int /*rank*/, Builder& b) { return write_both_ways(fragments, Sum::reduced, b); };
}

constexpr std::string_view kChainMasks = "causal, one document or packed ones";
constexpr std::string_view kChainNeeds =
    "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks";

}  // namespace

const Method chain = {
    .name = "chain",
    .family = Family::linear,
    .paper = "LASP, Sun, Qin, Li, Shen, Qiao, Zhong 2024, arXiv 2404.02882",
    .summary =
        "the state goes from rank to rank; each makes that of its own tokens first and scans them with what enters",
    .masks = kChainMasks,
    .needs = kChainNeeds,
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem,
                 const MethodOptions&) { return make_chain_writer(problem, 1); },
    .formula = [](const Configuration& c, const MethodOptions&) { return chain_formula(c, 1); },
    .in_order = true,
};

const Method all_scan = {
    .name = "all-scan",
    .family = Family::linear,
    .paper = "ZeCO, Chou, Liu, Zhu, Wan, Li, Chu, Liu, Wu, Ma 2025, arXiv 2507.01004",
    .summary =
        "the chain in blocks of heads: most leave the scan that they are made in, while earlier ones are scanned "
        "further on",
    .masks = "causal, of layer linear full (each rank sums a share of the heads); one document or packed ones",
    .needs = kChainNeeds,
    .options = {MethodOption::integer("blocks", "auto", {.min = 1, .max = 65536},
                                      "of heads, each a message; auto: one for each head, at most 32", {"auto"})},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions& options) -> Writer {
      if (problem->bidirectional()) return make_reduction_writer(*problem, options);
      return make_chain_writer(problem, static_cast<int>(blocks_asked(problem->heads, options)));
    },
    .formula = [](const Configuration& c,
                  const MethodOptions& options) { return chain_formula(c, blocks_asked(c.heads, options)); },
    .both_ways = true,
    .in_order = true,
};

}  // namespace weft::methods
