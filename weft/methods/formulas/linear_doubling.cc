#include "weft/methods/formulas/linear_doubling.h"

namespace weft::methods {

DoublingWalk::Window DoublingWalk::inclusive(int64_t d, bool& made) {
  Window all{mine_.own, place_.goes_on_behind(d) ? mine_.transition : 0};
  made = place_.crossed() && known_.state != 0;
  if (!made) return all;
  all.state = joined(known_.state, mine_.own, mine_.transition, size().states());
  if (all.transition != 0) all.transition = joined(known_.transition, mine_.transition, 0, size().transitions());
  return all;
}

void DoublingWalk::round(int64_t d) {
  Window sent, far;
  bool made = false;
  std::vector<Ledger::Out> out;
  if (place_.ahead_in >= d) {
    sent = inclusive(d, made);
    out = {{sent.state, size().states()}, {sent.transition, size().transitions(), 0, 0}};
  }
  std::vector<Ledger::In> in;
  if (place_.behind_in >= d) {
    const Place from{place_.behind - d, place_.ahead + d, place_.behind_in - d, place_.ahead_in + d};
    far.state = ledger_.make(size().states());
    if (from.goes_on_behind(d)) far.transition = ledger_.make(size().transitions());
    in = {{far.state, size().states()}, {far.transition, size().transitions()}};
  }
  ledger_.exchange(0, out, in);
  if (made) ledger_.drop(sent.state), ledger_.drop(sent.transition);
  if (far.state == 0) return;
  if (known_.state == 0) {
    known_ = far;
    return;
  }
  Ledger::Id state = joined(far.state, known_.state, known_.transition, size().states());
  ledger_.move(state, known_.state);
  if (far.transition == 0) {
    ledger_.drop(known_.transition);
  } else {
    Ledger::Id transition = joined(far.transition, known_.transition, 0, size().transitions());
    ledger_.move(transition, known_.transition);
  }
  ledger_.drop(far.state), ledger_.drop(far.transition);
}

}  // namespace weft::methods
