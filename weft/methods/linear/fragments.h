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

  // Where a method passes all heads at once:
  Value state;       // of the tail, if a document leaves
  Value dstate;      // of the head, if one enters
  Value transition;  // of all tokens, if crossed, where the layer has one
  Value entering;    // the state of `before`
};
std::vector<LocalFragment> local_fragments(Builder& b, const Fragments& fragments);

// Heads that are scanned before anything has come, where a method passes all of them at once: a quarter, for time to hide the
// messages behind. Correcting them takes half a scan of theirs again, or a whole one where rows mix.
inline int64_t first_heads(int64_t heads) { return (heads + 3) / 4; }

// The rank's tensors of a phase, and the work on a fragment that every method does.
struct LinearPass {
  explicit LinearPass(Builder& builder)
      : b(builder),
        q(b.input(Field::q)),
        kv(b.input(b.problem().key_inputs())),
        initial(b.input(Field::initial_state)) {}
  // Of other tokens and heads than the rank's own: values that have been fetched.
  LinearPass(Builder& builder, Value queries, Value keys, Value initial_states)
      : b(builder), q(std::move(queries)), kv(std::move(keys)), initial(std::move(initial_states)) {}

  void open_forward();
  void open_backward() { open_backward(b.input(Field::dout), b.input(Field::dfinal_state)); }
  void open_backward(Value dout_rows, Value dfinal_rows);
  // Of the fragment's tail and head, in some heads.
  Value state_of(const LocalFragment& fragment, Set heads);
  Value dstate_of(const LocalFragment& fragment, Set heads);
  // With what comes to the fragment, and giving `leaving`, any of which may be empty.
  void scan(const LocalFragment& fragment, Set heads, const Slice& state, const Slice& leaving = {});
  void scan_backward(const LocalFragment& fragment, Set heads, const Slice& state, const Slice& dstate,
                     const Slice& leaving = {});
  void finish_forward();
  void finish_backward();

  // All of a phase but the way of the maps, where these pass all heads at once. It begins with those of the rank's own
  // fragments, which others may need: they are on the critical path.
  void begin_forward(std::vector<LocalFragment>& own);
  void begin_backward(std::vector<LocalFragment>& own) {
    open_backward();
    make_dstates(own);
  }
  void make_dstates(std::vector<LocalFragment>& own);
  // While maps are on their way: what nothing comes to, and of the rest a share of the heads, to be corrected after.
  void scan_first(const std::vector<LocalFragment>& own);
  void scan_backward_first(const std::vector<LocalFragment>& own);
  // When they have come, with every `entering`, or the dstate that comes to each fragment.
  void scan_rest(std::vector<LocalFragment>& own);
  void scan_backward_rest(const std::vector<LocalFragment>& own, const std::vector<Value>& dstates);

  Set first_heads() const {
    const int64_t begin = q.heads().intervals().hull().begin;
    return b.set(Range{begin, begin + methods::first_heads(q.heads().size())});
  }
  Set other_heads() const { return q.heads() - first_heads(); }
  static Slice in(const Value& states, Set heads) { return states.at(states.tokens(), heads); }

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
