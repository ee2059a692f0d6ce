// Problem: what a schedule computes, without saying how. One attention operation over one packed sequence.
//
//   Problem problem = self_attention(Mask::of(5003, {.causal = true}), Layout::zigzag(5003, 7), 6, 2, 64);
//   problem.backward = true;
//   problem.validate();
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <string>

#include "weft/base/dtype.h"
#include "weft/layout/allowed_pairs.h"
#include "weft/layout/layout.h"
#include "weft/mask/mask.h"
#include "weft/schedule/layer.h"

namespace weft {

// A named tensor of attention. Query-side fields have one row per query token and count query heads; key-side fields
// have one row per key token and count kv heads. The fields of a state have one row per run of neighbouring tokens.
enum class Field : uint8_t {
  q,      // queries                      [tokens, heads, dim]          q and k of linear layers: key heads
  k,      // keys                         [tokens, kv heads, dim]      both, and beta, times householders
  v,      // values                       [tokens, kv heads, dim_v]
  out,    // attention output, normalised [tokens, heads, dim_v]
  lse,    // log-sum-exp, natural log     [tokens, heads]
  dout,   // gradient of out              [tokens, heads, dim_v]
  delta,  // rowsum(dout * out)           [tokens, heads]
  dq,     // gradient of q
  dk,     // gradient of k
  dv,     // gradient of v
  // Whole rows of scores: a column for each key that some query of the value may see (Problem::columns_of_scores).
  scores,   // scale * q.k                    [tokens, heads, keys]
  probs,    // exp(scores - lse)              [tokens, heads, keys]
  dprobs,   // gradient of probs: dout.v      [tokens, heads, keys]
  dscores,  // gradient of scores             [tokens, heads, keys]
  // Linear layers (layer.h). On the key side:
  g,   // natural logarithm of the decay, at most 0   [tokens, heads, 1 or dim]
  dg,  // gradient of g
  // Of a run of neighbouring tokens, which is what the tokens of such a value are:
  state,   // what the run makes of a state of zero at its begin              [heads, dim, dim_v]
  dstate,  // gradient of the state that enters the run, from the run's out   [heads, dim, dim_v]
  // what an entering state is multiplied by; 0 if a document begins  [heads, 1, dim or dim * dim; or as a of columns]
  transition,
  // Again on the key side, of linear layers that mix rows of the state:
  beta,   // how strongly the delta rule writes   [tokens, heads, 1]
  dbeta,  // gradient of beta
  a,
  b,  // F = D + b a^T                        [tokens, heads, dim]; or a alone: Mixing::columns, [.., blocks * dim_v]
  da,
  db,  // gradients of a and b
  // Of linear layers, where the problem has them. On the key side, in the row of a document's first token:
  initial_state,   // the state before that token   [documents, heads, dim * dim_v]
  dinitial_state,  // gradient of it
  // On the query side, in the rows of tokens after which the state is asked for: of a document's last one, and of chosen ones:
  final_state,   // the state after that token       [such tokens, heads, dim * dim_v]
  dfinal_state,  // gradient of it
  // A parameter of the layer, the same on all ranks and in no value:
  u,   // how much of its own key a token reads before that is in the state   [heads, dim]
  du,  // gradient of it: each rank's share, from the tokens whose dk it adds to
};
inline constexpr int kFieldCount = 31;

// A set of fields of one side.
class Fields {
 public:
  constexpr Fields() = default;
  constexpr Fields(Field field) : bits_(1u << static_cast<unsigned>(field)) {}
  static constexpr Fields from_bits(uint32_t bits) {
    Fields fields;
    fields.bits_ = bits;
    return fields;
  }
  constexpr uint32_t bits() const { return bits_; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr bool has(Field field) const { return (bits_ & Fields(field).bits_) != 0; }
  constexpr Fields without(Fields other) const { return from_bits(bits_ & ~other.bits_); }
  constexpr bool includes(Fields other) const { return (bits_ & other.bits_) == other.bits_; }
  friend constexpr Fields operator|(Fields a, Fields b) { return from_bits(a.bits_ | b.bits_); }
  friend constexpr Fields operator&(Fields a, Fields b) { return from_bits(a.bits_ & b.bits_); }
  friend constexpr bool operator==(Fields, Fields) = default;
  // Calls f(Field) for each member in the order of the enumeration.
  template <typename F>
  constexpr void for_each(F&& f) const {
    for (uint32_t rest = bits_; rest != 0; rest &= rest - 1) f(static_cast<Field>(std::countr_zero(rest)));
  }

 private:
  uint32_t bits_ = 0;
};
constexpr Fields operator|(Field a, Field b) { return Fields(a) | Fields(b); }

// What attention to some of the keys gives: two of them merge.
inline constexpr Fields kPartialFields = Field::out | Field::lse;
// A value holds one of these by itself; it stays on its rank.
inline constexpr Fields kScoreFields = Field::scores | Field::probs | Field::dprobs | Field::dscores;
// These have rows for some tokens only, the first ones of documents, or the last ones and those that the problem names; a value
// holds one of them by itself.
inline constexpr Fields kFirstTokenFields = Field::initial_state | Field::dinitial_state;
inline constexpr Fields kLastTokenFields = Field::final_state | Field::dfinal_state;
inline constexpr Fields kDocumentFields = kFirstTokenFields | kLastTokenFields;
inline constexpr Fields kQueryFields =
    Field::q | Field::out | Field::lse | Field::dout | Field::delta | Field::dq | kScoreFields | kLastTokenFields;
inline constexpr Fields kKeyInputs = Field::k | Field::v | Field::g | Field::beta | Field::a | Field::b;
inline constexpr Fields kKeyGradients = Field::dk | Field::dv | Field::dg | Field::dbeta | Field::da | Field::db;
inline constexpr Fields kKeyFields = kKeyInputs | kKeyGradients | kFirstTokenFields;
// Of a run of tokens, not of each; a value holds one of these by itself, and is named with its whole run.
inline constexpr Fields kStateFields = Field::state | Field::dstate | Field::transition;

const char* name_of(Field field);
// Of an input that has one: dq of q, ..
Field gradient_of(Field input);
std::string to_string(Fields fields);  // "k+v"

// How the content of a value comes about.
enum class Form : uint8_t {
  whole,         // each element is *the* element of its tensor, written once
  accumulating,  // born as the identity, contributions are added or merged until `finish` makes it whole
  pieces,        // states of the pieces of a run (pieces.h), each written once, by receipt, and joined by `compose`
};
inline constexpr int kFormCount = 3;
const char* name_of(Form form);

// Whether a value of this form can hold these fields: of one side, and as sums only what is summed.
constexpr bool may_hold(Form form, Fields fields) {
  if (!(fields & kStateFields).empty()) {
    return form != Form::accumulating &&
           (fields == Fields(Field::state) || fields == Fields(Field::dstate) || fields == Fields(Field::transition));
  }
  if (form == Form::pieces) return false;
  if (!(fields & kDocumentFields).empty()) {
    const bool one = fields == Fields(Field::initial_state) || fields == Fields(Field::dinitial_state) ||
                     fields == Fields(Field::final_state) || fields == Fields(Field::dfinal_state);
    return one &&
           (form == Form::whole || fields == Fields(Field::dinitial_state) || fields == Fields(Field::final_state));
  }
  const bool one_side = kQueryFields.includes(fields) || kKeyFields.includes(fields);
  if (fields.empty() || !one_side) return false;
  if (!(fields & kScoreFields).empty()) {
    constexpr Field kSums[] = {Field::scores, Field::dprobs}, kWhole[] = {Field::probs, Field::dscores};
    const auto& alone = form == Form::accumulating ? kSums : kWhole;
    return fields == Fields(alone[0]) || fields == Fields(alone[1]);
  }
  return form == Form::whole || fields == kPartialFields || fields == Fields(Field::out) ||
         fields == Fields(Field::dq) || kKeyGradients.includes(fields);
}

// Attention, or a linear layer, apart from its tokens: what one row holds, and what is asked for.
struct AttentionShape {
  Layer layer = Layer::softmax;
  std::vector<double> log_decay = {};  // of each head, at most 0: for layers with a constant decay, else empty
  int64_t heads = 1;
  int64_t kv_heads = 1;  // query head h reads kv head h / (heads / kv_heads)
  int64_t dim = 64;      // columns of q and k
  int64_t dim_v = 64;    // columns of v and out
  bool backward = false;
  // Of linear layers: so many heads of q and k there are, each for heads / key_heads heads that follow one another; dq and dk are
  // sums over these. 0: as many as heads.
  int64_t key_heads = 0;
  // Of layers with a delta rule: so often does a token decay, no more than once, and write: DeltaProduct. k, v and beta have as
  // many rows of dim, dim_v and 1 columns for each token, one behind the other.
  int64_t householders = 1;
  // Of linear layers: documents begin with given states, else with zero; the states after their last tokens are results.
  bool initial_states = false, final_states = false;
  IntervalSet state_positions = {};  // the states after these tokens are results, too
  bool return_lse = false;      // whether lse must reach its owners; else methods may leave it where it was computed
  DType element = DType::fp32;  // of inputs and results; lse is fp32 (fp64 for fp64)
  DType wire = DType::fp32;     // of travelling partial outputs and gradient sums; lse and delta are never lowered
  // Not 0: results have the same bits for every method, layout and number of ranks (docs/numerics.md). A linear layer's shards
  // begin at multiples of so many tokens from a document's begin (docs/linear.md). Attention is cut on
  // tiles of so many positions, shards must begin and end between tiles, and accumulators are exact sums.
  int64_t canonical_tile = 0;

  int64_t group() const { return heads / kv_heads; }
  // How many heads, following one another, have a row of this field in common: more than 1 for those of shared_fields().
  int64_t sharing(Field field) const {
    return shared_fields().has(field) ? std::max<int64_t>(1, heads / key_heads) : 1;
  }
  Fields shared_fields() const;
  void ask_for_states(std::span<const int64_t> positions) {
    for (const int64_t position : positions) state_positions.unite(Range{position, position + 1});
  }
  // Whether states are results.
  bool gives_states() const { return final_states || !state_positions.empty(); }
  // The type of lse and delta, and of accumulating values unless results are canonical.
  DType accumulator() const { return accumulator_of(element); }

  // A method that cuts what a rank holds does it at multiples of so many tokens from the start of an interval.
  int64_t unit_of_cuts() const { return canonical_tile == 0 ? 1 : canonical_tile; }

  // Fields of the key side that the caller gives, and those that it gets: k, v and what else the layer has.
  Fields key_inputs() const;
  Fields key_gradients() const;
  // All that the caller gives in a phase: of softmax attention in backward, what forward gave too.
  Fields inputs_of(bool in_backward) const;
  // Fields that the caller gets in a phase.
  Fields results_of(bool in_backward) const;

  // Columns of a field: dim, dim_v or 1, dim * dim_v of a state; 0 for those of kScoreFields, which depend on the rows.
  int64_t columns_of(Field field) const;
  // Type of a field in memory: the element type for inputs and results, the accumulator for everything between.
  DType type_of(Field field, Form form) const;
  // Type of a field inside a message.
  DType wire_type_of(Field field, Form form) const;
  // Bytes of one (token, head) of a value in memory, and inside a message, without fields of kScoreFields; of shared fields this
  // is of all the heads that share them (shared_heads.h counts).
  int64_t bytes_per_row(Fields fields, Form form) const;
  int64_t wire_bytes_per_row(Fields fields, Form form) const;
  // The same of a token: for all heads of the side that the fields are of.
  int64_t bytes_per_token(Fields fields, Form form) const;
  int64_t wire_bytes_per_token(Fields fields, Form form) const;
  // Rows that a token has of a field: its heads, or fewer where heads share them.
  int64_t heads_of(Field field) const { return (kKeyFields.has(field) ? kv_heads : heads) / sharing(field); }
};

struct Problem : AttentionShape {
  Problem(Mask mask, Layout query_layout, Layout key_layout);

  Mask mask;
  Layout query_layout;  // where q, out, dout, dq live
  Layout key_layout;    // where k, v, dk, dv live
  AllowedPairs pairs;   // mask on the axes of the layouts
  double scale = 0;     // 0: 1 / sqrt(dim), or 1 for layers that mean that

  int ranks() const { return query_layout.ranks(); }
  double softmax_scale() const;  // of softmax or not: the factor of q.k
  // Of linear layers: whether tokens read all of their document, the later ones too, and nothing has an order.
  bool bidirectional() const { return layer == Layer::linear && mask.bands().front().hi > 0; }
  // Whether a document begins at one of these tokens. Of linear layers, whose mask is documents.
  bool document_begins_in(Range tokens) const;
  // The rows of a tensor among these tokens: all of them, or the documents' first ones, or those after which the state is asked for.
  IntervalSet rows_among(const IntervalSet& tokens, Fields fields) const;
  enum class End : uint8_t { first, last };
  // Of these tokens, those that are a document's first, or last.
  IntervalSet ends_of_documents(const IntervalSet& tokens, End end) const;
  // The keys that some of these queries may see: one column each in whole rows of their scores.
  IntervalSet columns_of_scores(const IntervalSet& queries) const;
  // Bytes of whole rows of scores for these queries in so many heads; nothing above 2^50 elements.
  std::optional<int64_t> bytes_of_scores(const IntervalSet& queries, int64_t heads) const;

  // Throws Error(usage) when the parts do not fit together: head counts, layouts of another length or rank count,
  // wire types wider than the accumulator, shards that cut a tile of canonical results.
  void validate() const;

 private:
  void validate_canonical() const;
  void validate_linear() const;
  void validate_canonical_recurrence(const std::vector<int64_t>& lengths) const;
};

// The tile of `--canonical`: its partial results are few enough to sum exactly at little cost.
inline constexpr int64_t kCanonicalTile = 128;
// Contributions that an element of a canonical accumulator can take.
inline constexpr int64_t kMostCanonicalTerms = int64_t{1} << 22;

// Queries and keys are the same tokens in the same layout. dim_v = dim.
Problem self_attention(Mask mask, Layout layout, int64_t heads, int64_t kv_heads, int64_t dim);

}  // namespace weft
