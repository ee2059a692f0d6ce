// Instructions: the vocabulary of a schedule, as plain records over interned sets.
//
// A rank's program means what it does when every instruction ends before the next begins; an exchange sends what its
// outgoing slices hold when it is issued. What may overlap follows from what each instruction reads and writes
// (see dependencies.h) and can never change a result. docs/schedule.md states every rule with its reason.
#pragma once

#include <cstdint>
#include <span>

#include "weft/base/dtype.h"
#include "weft/schedule/problem.h"
#include "weft/schedule/set_pool.h"

namespace weft {

// A value of one rank: fields over one product (tokens x heads). Slots are reused after a drop.
enum class ValueId : uint32_t {};

// A view of a value: some of its rows, heads and fields.
struct Slice {
  ValueId value{};
  SetId tokens{};
  SetId heads{};
  Fields fields;

  // The same rows and heads of fewer fields.
  Slice only(Fields some) const { return {value, tokens, heads, fields & some}; }
  friend bool operator==(const Slice&, const Slice&) = default;
};

enum class Op : uint8_t {
  create,            // targets: a new value of the given form, nothing defined or the identity
  input,             // targets: a new whole value that the caller fills: q, k, v; in backward also out, lse, dout
  drop,              // sources: the value ends; its bytes come back when the last exchange reading it is complete
  result,            // sources: whole rows that the caller gets
  exchange,          // parts: everything goes out and comes in together
  wait,              // all exchanges of the lane are complete
  attend,            // queries, keys -> targets (out, lse): the pairs that the mask allows, merged into the partial
  attend_backward,   // queries, keys, bundles (dout, lse, delta) -> targets (dq and/or dk, dv): added
  prepare_backward,  // sources (out, dout) -> targets (delta)
  finish,            // sources (accumulating, complete rows) -> targets (whole), cast once
  merge,             // targets (out, lse) <- targets merged with sources
  add,               // targets (sums) <- targets + sources
  begin_backward,    // second phase: forward is over, nothing is in flight
  // Attention by whole rows of scores, as before online softmax. Memory grows with queries x keys.
  score,               // queries (q), keys (k) -> targets (scores): the columns of these keys
  normalise,           // sources (scores, complete rows) -> targets (probs), (lse)
  weigh,               // queries (probs), keys (v) -> targets (out): added
  weigh_backward,      // queries (dout), keys (v), bundles (probs) -> targets (dprobs) and/or (dv): added
  normalise_backward,  // sources (probs), (dprobs, complete rows) -> targets (dscores)
  score_backward,      // queries (q), keys (k), bundles (dscores) -> targets (dq) and/or (dk): added
  // Linear layers (layer.h). Every operand but a state is of one run of neighbouring tokens, the same one in all; keys are
  // all the inputs of the key side: k, v, and what else the layer has.
  summarise,  // keys -> targets (state) and/or (transition) of the run
  compose,    // sources (two of a kind, of runs that follow one another, the earlier first) -> targets (of the joined
              // run). Bundles, where the layer has transitions: for states the later run's transition, for dstates
              // the earlier one's; none for transitions. Or sources (some pieces of a value in pieces) -> targets (of
              // all of them): from the first on, for dstates from the last; bundles (transitions of all others, in
              // pieces too)
  scan,       // queries, keys, bundles (state that enters the run, where one does) -> targets (out): added; (state that
              // leaves the run)
  apply_state,  // queries, keys, bundles (state that enters the run) -> targets (out): what it changes, added; with a
                // full mask the state is of any of the document's tokens, and bundles (dout) -> targets (dq)
  summarise_backward,  // queries, keys, bundles (dout) -> targets (dstate) of the run
  scan_backward,  // queries, keys, bundles (dout), (state that enters, where one does), (dstate of what follows the run)
                  // -> targets (dq), (dk, dv, dg): added; (dstate of the run and what follows it)
  apply_dstate,   // keys, bundles (dstate of what follows the run), (state that enters) -> targets (dk, dv, dg)
};
inline constexpr int kOpCount = 26;
const char* name_of(Op op);

// Rows of a slice in messages: one for each token, but a run of tokens has one state. In memory too, but for values in
// pieces.
inline int64_t rows_of(const SetPool& pool, const Slice& slice) {
  return (slice.fields & kStateFields).empty() ? pool.size(slice.tokens) : 1;
}

// What happens to an incoming part: written into undefined or identity rows, or added, or merged, in listed order.
enum class Combine : uint8_t { copy, add, merge };
const char* name_of(Combine combine);

// One slice of an exchange, going to or coming from a peer. All parts with one peer and direction are one message.
struct Part {
  Slice slice;
  int32_t peer = 0;
  Combine combine = Combine::copy;  // incoming only
  friend bool operator==(const Part&, const Part&) = default;
};

// Operands lie one after the other in the block's slices, group by group in the order of the counts. An exchange has
// its outgoing parts first, then its incoming ones, each sorted by peer (parts of one peer in listed order).
struct Instruction {
  Op op{};
  Form form{};       // create only
  uint8_t lane = 0;  // exchange and wait only: 0..7, a promise of concurrency, one queue each
  uint32_t step = 0;
  uint32_t first = 0;                                                     // first slice, or first part of an exchange
  uint32_t queries = 0, keys = 0, bundles = 0, sources = 0, targets = 0;  // counts; exchange: sources out, targets in
};
inline constexpr int kLanes = 8;

// A piece of a rank's program: its instructions up to a step mark, and their operands. Valid until the next piece.
struct Block {
  std::span<const Instruction> instructions;
  std::span<const Slice> slices;
  std::span<const Part> parts;

  std::span<const Slice> queries(const Instruction& i) const { return slices.subspan(i.first, i.queries); }
  std::span<const Slice> keys(const Instruction& i) const { return slices.subspan(i.first + i.queries, i.keys); }
  std::span<const Slice> bundles(const Instruction& i) const {
    return slices.subspan(i.first + i.queries + i.keys, i.bundles);
  }
  std::span<const Slice> sources(const Instruction& i) const {
    return slices.subspan(i.first + i.queries + i.keys + i.bundles, i.sources);
  }
  std::span<const Slice> targets(const Instruction& i) const {
    return slices.subspan(i.first + i.queries + i.keys + i.bundles + i.sources, i.targets);
  }
  std::span<const Part> outgoing(const Instruction& i) const { return parts.subspan(i.first, i.sources); }
  std::span<const Part> incoming(const Instruction& i) const { return parts.subspan(i.first + i.sources, i.targets); }
  // All slices of an instruction that is not an exchange.
  std::span<const Slice> operands(const Instruction& i) const {
    return slices.subspan(i.first, size_t{i.queries} + i.keys + i.bundles + i.sources + i.targets);
  }
};

// Calls f(peer, parts) for each message among parts that are sorted by peer.
template <typename F>
void for_each_message(std::span<const Part> parts, F&& f) {
  for (size_t begin = 0; begin < parts.size();) {
    size_t end = begin + 1;
    while (end < parts.size() && parts[end].peer == parts[begin].peer) ++end;
    f(parts[begin].peer, parts.subspan(begin, end - begin));
    begin = end;
  }
}

}  // namespace weft
