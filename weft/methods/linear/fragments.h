// Fragments: the runs of neighbouring tokens that ranks hold, in the order of the sequence, over which linear layers scan.
//
// A contiguous layout has one for each rank, zigzag two: the same methods work on any cut of the sequence. Documents need
// no case of their own: what crosses a fragment's ends is asked of the mask, and is empty where no document does.
#pragma once

#include <memory>
#include <vector>

#include "weft/schedule/builder.h"

namespace weft::methods {

struct Fragment {
  Range tokens;
  int rank = 0;
  Range before, after;  // runs that its documents have on both sides; empty where none crosses that end
  Range head, tail;     // of its tokens, those of the document that enters; of the one that leaves
  // Numbers of the fragments that hold its documents: from that of the first token before it to that of the last after.
  int first = 0, end = 0;

  // One document enters and leaves again: what enters is passed on.
  bool crossed() const { return !head.empty() && head == tokens && tail == tokens; }
};

class Fragments {
 public:
  explicit Fragments(const Problem& problem) : Fragments(problem, runs_of_ranks(problem)) {}
  // Any cut of the sequence: only tokens and ranks are given, in any order.
  Fragments(const Problem& problem, std::vector<Fragment> cut);
  int count() const { return static_cast<int>(all_.size()); }
  const Fragment& operator[](int i) const { return all_[static_cast<size_t>(i)]; }
  // The numbers of a rank's fragments, ascending.
  const std::vector<int>& of(int rank) const { return of_rank_[static_cast<size_t>(rank)]; }
  // The most fragments that a document enters, one after the other.
  int longest() const { return longest_; }

 private:
  static std::vector<Fragment> runs_of_ranks(const Problem& problem);
  // The number of the fragment that holds a token.
  int holding(int64_t token) const;
  std::vector<Fragment> all_;
  std::vector<std::vector<int>> of_rank_;
  int longest_ = 0;
};
using SharedFragments = std::shared_ptr<const Fragments>;
SharedFragments make_fragments(const Problem& problem);

// One of a rank's own fragments, and the maps of what it holds.
struct LocalFragment {
  LocalFragment(Builder& b, const Fragments& fragments, int fragment);

  int number = 0;
  Set tokens, before, after, head, tail;  // as in Fragment
  bool crossed = false;

  Value state;                  // of the tail, if a document leaves
  Value dstate;                 // of the head, if one enters
  Value transition;             // of all tokens, if crossed, where the layer has one
  std::vector<Value> entering;  // the state of `before`: of all heads, or of one block of heads each
};
std::vector<LocalFragment> local_fragments(Builder& b, const Fragments& fragments);

// The rank's tensors of a phase, and the work on a fragment that every method does.
struct LinearPass {
  explicit LinearPass(Builder& builder)
      : b(builder),
        q(b.input(Field::q)),
        kv(b.input(b.problem().key_inputs())),
        initial(b.input(Field::initial_state)) {}

  // Begins with the maps of the rank's fragments, which others may need: they are on the critical path.
  void begin_forward(std::vector<LocalFragment>& own);
  void begin_backward(std::vector<LocalFragment>& own);
  void scan(const LocalFragment& fragment);
  // The entering states of all fragments, whose own states have served.
  void apply_entering(std::vector<LocalFragment>& own);
  // Adds what the entering state changes, for the heads that it is of.
  void apply(const LocalFragment& fragment, const Slice& state);
  void scan_backward(const LocalFragment& fragment);
  void apply_backward(const LocalFragment& fragment, const Slice& dstate);
  void finish_forward();
  void finish_backward();

  // Some rows of inputs or sums, and those of their documents with them.
  std::vector<Slice> keys(Set tokens, Set heads) { return with(kv, initial, tokens, heads); }
  std::vector<Slice> with(const Value& rows, const Value& of_documents, Set tokens, Set heads) {
    return {rows.at(tokens, heads), of_documents.at(b.rows(of_documents.fields(), tokens), heads)};
  }

  Builder& b;
  Value q, kv, initial;  // given states of documents, where there are any
  Value out, final;      // forward
  Value dout, dfinal;    // backward
  Value dq, dkv, dinitial;
};

}  // namespace weft::methods
