// Recursive doubling: after round d every fragment knows the state of twice as many fragments before it.
//
//   8 ranks (cell: whose fragments the state holds that has been put together on the rank)
//             rank 0   1     2     3     4     5     6     7
//   round 1     -      0     1     2     3     4     5     6        from r-1: its own map
//   round 2     -      0    0-1   0-2   1-3   2-4   3-5   4-6       from r-2: the map of its window, itself included
//   round 4     -      0    0-1   0-2   0-3   0-4   0-5   0-6       from r-4
//
// ceil(log2 P) rounds in each direction instead of P-1 hops, for a state (and, until the begin of the document is reached, a
// transition) per round. The textbook algorithm of MPI_Exscan, on affine maps; backward it runs against the order. Only
// windows that a document reaches travel, so the rounds end at the longest document. Volume of one document over P ranks, n
// bytes of state and m of transition (0 where decays are constants): each phase sum over rounds d = 1, 2, 4, .. < P of
// (P-d) n + max(0, P-2d) m.
//
// On zigzag a rank takes part for both of its fragments; what a rank sends itself is a copy.
#include "weft/methods/linear/fragments.h"
#include "weft/methods/methods.h"

namespace weft::methods {
namespace {

// One phase on one rank. Numbers count fragments in the direction of travel: towards = 1 down the sequence, -1 up.
class Doubling {
 public:
  Doubling(Builder& b, const Fragments& all, std::vector<LocalFragment>& own, int towards)
      : b_(b), all_(all), own_(own), towards_(towards), windows_(own.size()) {}

  void round(int d) {
    Exchange exchange = b_.exchange();
    for (size_t i = 0; i < own_.size(); ++i) send(exchange, i, d);
    std::vector<Window> received(own_.size());
    for (size_t i = 0; i < own_.size(); ++i) receive(exchange, i, d, received[i]);
    exchange.issue();
    sent_.clear();
    for (size_t i = 0; i < own_.size(); ++i) join(windows_[i], std::move(received[i]));
  }

  // What is known: after the last round the state that enters, or the gradient of the one that leaves.
  const Value& known(size_t i) const { return windows_[i].state; }

 private:
  // Of the fragments just behind one: their joined state, and transition while more lies behind them.
  struct Window {
    Value state, transition;
  };

  // How many fragments behind f its document holds: what f takes in all rounds.
  int behind(int f) const { return towards_ > 0 ? f - all_[f].first : all_[f].end - 1 - f; }
  int ahead(int f) const { return towards_ > 0 ? all_[f].end - 1 - f : f - all_[f].first; }
  bool gates() const { return has_gates(b_.problem().layer); }
  Field field() const { return towards_ > 0 ? Field::state : Field::dstate; }
  // The tokens of fragment f and of those up to d-1 behind it that are of the document that goes on ahead of f.
  Set window_run(int f, int d) const {
    const Fragment& at = all_[f];
    const Range part = towards_ > 0 ? at.tail : at.head;
    if (!at.crossed()) return b_.set(part);
    const int last = f - towards_ * std::min(d - 1, behind(f));
    const Range far = towards_ > 0 ? all_[last].tail : all_[last].head;
    return b_.set(Range{std::min(part.begin, far.begin), std::max(part.end, far.end)});
  }
  // Whether the document of that window goes on behind it.
  bool goes_on_behind(int f, int d) const { return all_[f].crossed() && behind(f) > d - 1; }

  void send(Exchange& exchange, size_t i, int d) {
    const LocalFragment& f = own_[i];
    if (ahead(f.number) < d) return;
    const int peer = all_[f.number + towards_ * d].rank;
    const Window& known = windows_[i];
    const Value& mine = towards_ > 0 ? f.state : f.dstate;
    Window out{mine, goes_on_behind(f.number, d) ? f.transition : Value()};
    if (f.crossed && !known.state.empty()) {
      out.state =
          towards_ > 0 ? b_.compose(known.state, mine, f.transition) : b_.compose(mine, known.state, f.transition);
      if (!out.transition.empty()) {
        out.transition =
            towards_ > 0 ? b_.compose(known.transition, f.transition) : b_.compose(f.transition, known.transition);
      }
    }
    exchange.send(peer, out.state);
    exchange.send(peer, out.transition);
    sent_.push_back(std::move(out));
  }

  void receive(Exchange& exchange, size_t i, int d, Window& to) {
    const int f = own_[i].number;
    if (behind(f) < d) return;
    const int from = f - towards_ * d;
    const Set run = window_run(from, d);
    to.state = b_.whole(field(), run, b_.all_heads());
    if (gates() && goes_on_behind(from, d)) to.transition = b_.whole(Field::transition, run, b_.all_heads());
    exchange.receive(all_[from].rank, to.state);
    exchange.receive(all_[from].rank, to.transition);
  }

  void join(Window& known, Window far) const {
    if (far.state.empty()) return;
    if (known.state.empty()) {
      known = std::move(far);
      return;
    }
    known.state = towards_ > 0 ? b_.compose(far.state, known.state, known.transition)
                               : b_.compose(known.state, far.state, known.transition);
    if (far.transition.empty()) {
      known.transition.reset();
    } else {
      known.transition =
          towards_ > 0 ? b_.compose(far.transition, known.transition) : b_.compose(known.transition, far.transition);
    }
  }

  Builder& b_;
  const Fragments& all_;
  std::vector<LocalFragment>& own_;
  const int towards_;
  std::vector<Window> windows_;  // by own fragment
  std::vector<Window> sent_;     // until the exchange is issued
};

Steps write(SharedFragments fragments, Builder& b) {
  std::vector<LocalFragment> own = local_fragments(b, *fragments);
  {
    LinearPass pass(b);
    pass.begin_forward();
    for (LocalFragment& f : own) pass.summarise(f);
    {
      Doubling doubling(b, *fragments, own, 1);
      doubling.round(1);
      for (const LocalFragment& f : own) pass.scan(f);  // while the first maps are on their way
      co_yield Step{};
      for (int d = 2; d <= fragments->longest(); d *= 2) {
        doubling.round(d);
        co_yield Step{};
      }
      for (size_t i = 0; i < own.size(); ++i) {
        if (!own[i].before.empty()) own[i].entering = {doubling.known(i)};
      }
    }
    for (LocalFragment& f : own) {
      f.state.reset();
      for (const Value& state : f.entering) pass.apply(f, state);
    }
    pass.finish_forward();
    co_yield Step{};
  }
  if (!b.problem().backward) co_return;

  b.begin_backward();
  LinearPass pass(b);
  pass.begin_backward();
  for (LocalFragment& f : own) pass.summarise_backward(f);
  Doubling doubling(b, *fragments, own, -1);
  doubling.round(1);
  for (const LocalFragment& f : own) pass.scan_backward(f);
  co_yield Step{};
  for (int d = 2; d <= fragments->longest(); d *= 2) {
    doubling.round(d);
    co_yield Step{};
  }
  for (size_t i = 0; i < own.size(); ++i) {
    if (!own[i].after.empty()) pass.apply_backward(own[i], doubling.known(i));
  }
  pass.finish_backward();
  co_yield Step{};
}

}  // namespace

const Method log_step = {
    .name = "log-step",
    .family = Family::linear,
    .paper = "recursive doubling as in MPI_Exscan; on affine maps by Blelloch 1990",
    .summary = "every round joins windows of twice as many ranks: few messages in a row for many ranks",
    .masks = "causal, one document or packed ones",
    .needs = "layouts made of neighbouring tokens (contiguous, zigzag); any tokens and ranks",
    .options = {},
    .layout = contiguous_layout,
    .writer = [](std::shared_ptr<const Problem> problem, const MethodOptions&) -> Writer {
      const SharedFragments fragments = make_fragments(*problem);
      return [fragments](int /*rank*/, Builder& b) { return write(fragments, b); };
    },
};

}  // namespace weft::methods
