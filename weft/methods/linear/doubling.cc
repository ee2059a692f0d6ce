#include "weft/methods/linear/doubling.h"

namespace weft::methods {

void Doubling::round(int d) {
  Exchange exchange = b_.exchange();
  for (size_t i = 0; i < own_.size(); ++i) send(exchange, i, d);
  std::vector<Window> received(own_.size());
  for (size_t i = 0; i < own_.size(); ++i) receive(exchange, i, d, received[i]);
  exchange.issue();
  sent_.clear();
  for (size_t i = 0; i < own_.size(); ++i) join(windows_[i], std::move(received[i]));
}

// The tokens of fragment f and of those up to d-1 behind it that are of the document that goes on ahead of f.
Set Doubling::window_run(int f, int d) const {
  const Fragment& at = all_[f];
  const Range part = towards_ > 0 ? at.tail : at.head;
  if (!at.crossed()) return b_.set(part);
  const int last = f - towards_ * std::min(d - 1, behind_in_group(f));
  const Range far = towards_ > 0 ? all_[last].tail : all_[last].head;
  return b_.set(Range{std::min(part.begin, far.begin), std::max(part.end, far.end)});
}

Doubling::Window Doubling::inclusive(size_t i, int d) const {
  const LocalFragment& f = own_[i];
  const Window& known = windows_[i];
  const bool down = towards_ > 0;
  const Value& mine = down ? f.state : f.dstate;
  Window all{mine, goes_on_behind(f.number, d) ? f.transition : Value()};
  if (!f.crossed || known.state.empty()) return all;
  all.state = down ? b_.compose(known.state, mine, f.transition) : b_.compose(mine, known.state, f.transition);
  if (!all.transition.empty()) {
    all.transition = down ? b_.compose(known.transition, f.transition) : b_.compose(f.transition, known.transition);
  }
  return all;
}

void Doubling::send(Exchange& exchange, size_t i, int d) {
  const int f = own_[i].number;
  if (ahead_in_group(f) < d) return;
  const int peer = all_[f + towards_ * d].rank;
  sent_.push_back(inclusive(i, d));
  exchange.send(peer, sent_.back().state);
  exchange.send(peer, sent_.back().transition);
}

void Doubling::receive(Exchange& exchange, size_t i, int d, Window& to) {
  const int f = own_[i].number;
  if (behind_in_group(f) < d) return;
  const int from = f - towards_ * d;
  const Set run = window_run(from, d);
  to.state = b_.whole(towards_ > 0 ? Field::state : Field::dstate, run, heads_);
  if (has_transition(b_.problem().layer) && goes_on_behind(from, d)) {
    to.transition = b_.whole(Field::transition, run, heads_);
  }
  exchange.receive(all_[from].rank, to.state);
  exchange.receive(all_[from].rank, to.transition);
}

void Doubling::join(Window& known, Window far) const {
  if (far.state.empty()) return;
  if (known.state.empty()) {
    known = std::move(far);
    return;
  }
  const bool down = towards_ > 0;
  known.state = down ? b_.compose(far.state, known.state, known.transition)
                     : b_.compose(known.state, far.state, known.transition);
  if (far.transition.empty()) {
    known.transition.reset();
  } else {
    known.transition =
        down ? b_.compose(far.transition, known.transition) : b_.compose(known.transition, far.transition);
  }
}

}  // namespace weft::methods
