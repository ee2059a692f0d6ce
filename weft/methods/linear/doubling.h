// Recursive doubling over the fragments of a sequence, or over the fragments of each group by itself.
//
// After rounds d = 1, 2, 4, .. every fragment knows the joined map of up to 2d - 1 fragments behind it, where behind is
// towards the begin of the sequence in forward and towards its end in backward. Only windows that a document reaches travel.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "weft/methods/linear/fragments.h"

namespace weft::methods {

class Doubling {
 public:
  // towards = 1 down the sequence, with states; -1 up, with dstates. `group`: fragments 0 .. group-1 are by themselves, and so on.
  Doubling(Builder& b, const Fragments& all, std::vector<LocalFragment>& own, int towards, int group)
      : Doubling(b, all, own, towards, group, b.all_heads()) {}
  Doubling(Builder& b, const Fragments& all, std::vector<LocalFragment>& own, int towards)
      : Doubling(b, all, own, towards, all.count()) {}
  // Of some heads alone.
  Doubling(Builder& b, const Fragments& all, std::vector<LocalFragment>& own, int towards, Set heads)
      : Doubling(b, all, own, towards, all.count(), heads) {}

  // Does the next of the rounds d = 1, 2, 4, .. False after the last.
  bool next() {
    if (round_ > std::min(all_.longest(), group_ - 1)) return false;
    round(round_);
    round_ *= 2;
    return true;
  }

  // Of the fragments behind one: their joined state or dstate, and its transition while more lies behind them.
  struct Window {
    Value state, transition;
  };
  // What own fragment i knows of its group, after the last round.
  const Window& known(size_t i) const { return windows_[i]; }
  // After the last round of states: what enters the own fragments, into LocalFragment::entering.
  void enter() {
    for (size_t i = 0; i < own_.size(); ++i) {
      if (!own_[i].before.empty()) own_[i].entering = windows_[i].state;
    }
  }
  // Their states or dstates.
  std::vector<Value> known_states() const {
    std::vector<Value> states;
    for (const Window& window : windows_) states.push_back(window.state);
    return states;
  }
  // What own fragment i knows, with the fragment itself.
  Window inclusive(size_t i, int d) const;

 private:
  void round(int d);
  Doubling(Builder& b, const Fragments& all, std::vector<LocalFragment>& own, int towards, int group, Set heads)
      : b_(b), all_(all), own_(own), towards_(towards), group_(group), heads_(heads), windows_(own.size()) {}
  // Fragments behind f that its document holds; and those of them in its group.
  int behind(int f) const { return towards_ > 0 ? f - all_[f].first : all_[f].end - 1 - f; }
  int behind_in_group(int f) const {
    const int place = f % group_;
    return std::min(behind(f), towards_ > 0 ? place : std::min(all_.count() - 1 - f, group_ - 1 - place));
  }
  int ahead_in_group(int f) const {
    const int place = f % group_;
    return towards_ > 0 ? std::min(all_[f].end - 1 - f, group_ - 1 - place) : std::min(f - all_[f].first, place);
  }
  Set window_run(int f, int d) const;
  // Whether the document of the window of d fragments up to f goes on behind it.
  bool goes_on_behind(int f, int d) const {
    return all_[f].crossed() && behind(f) > std::min(d - 1, behind_in_group(f));
  }
  void send(Exchange& exchange, size_t i, int d);
  void receive(Exchange& exchange, size_t i, int d, Window& to);
  void join(Window& known, Window far) const;

  Builder& b_;
  const Fragments& all_;
  std::vector<LocalFragment>& own_;
  const int towards_, group_;
  const Set heads_;
  int round_ = 1;
  std::vector<Window> windows_;  // by own fragment
  std::vector<Window> sent_;     // until the exchange is issued
};

}  // namespace weft::methods
