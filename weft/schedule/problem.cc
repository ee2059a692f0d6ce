#include "weft/schedule/problem.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "weft/base/error.h"
#include "weft/layout/document_tiles.h"

namespace weft {
namespace {

constexpr const char* kNames[kFieldCount] = {"q",
                                             "k",
                                             "v",
                                             "out",
                                             "lse",
                                             "dout",
                                             "delta",
                                             "dq",
                                             "dk",
                                             "dv",
                                             "scores",
                                             "probs",
                                             "dprobs",
                                             "dscores",
                                             "g",
                                             "dg",
                                             "state",
                                             "dstate",
                                             "transition",
                                             "beta",
                                             "dbeta",
                                             "a",
                                             "b",
                                             "da",
                                             "db",
                                             "initial_state",
                                             "dinitial_state",
                                             "final_state",
                                             "dfinal_state",
                                             "u",
                                             "du"};

constexpr int64_t kMostElements = int64_t{1} << 50;  // of one tensor
constexpr int64_t kMostHouseholders = 64;

void require(bool fine, const std::string& message) {
  if (!fine) throw Error(ErrorCode::usage, message);
}

}  // namespace

const char* name_of(Field field) { return kNames[static_cast<int>(field)]; }

const char* name_of(Form form) {
  static constexpr const char* kForms[kFormCount] = {"whole", "accumulating", "pieces"};
  return kForms[static_cast<int>(form)];
}

Field gradient_of(Field input) {
  switch (input) {
    case Field::q: return Field::dq;
    case Field::k: return Field::dk;
    case Field::v: return Field::dv;
    case Field::g: return Field::dg;
    case Field::beta: return Field::dbeta;
    case Field::a: return Field::da;
    case Field::b: return Field::db;
    case Field::initial_state: return Field::dinitial_state;
    case Field::u: return Field::du;
    default: throw Error(ErrorCode::internal, std::string(name_of(input)) + " is no input with a gradient");
  }
}

std::string to_string(Fields fields) {
  std::string text;
  fields.for_each([&](Field field) { text += (text.empty() ? "" : "+") + std::string(name_of(field)); });
  return text;
}

Problem::Problem(Mask m, Layout q, Layout k)
    : mask(std::move(m)),
      query_layout(std::move(q)),
      key_layout(std::move(k)),
      pairs(mask, query_layout.axis(), key_layout.axis()) {}

double Problem::softmax_scale() const {
  if (scale != 0) return scale;
  return traits_of(layer).unit_scale ? 1 : 1 / std::sqrt(static_cast<double>(dim));
}

IntervalSet Problem::rows_among(const IntervalSet& tokens, Fields fields) const {
  if ((fields & kDocumentFields).empty()) return tokens;
  if (kFirstTokenFields.includes(fields)) return ends_of_documents(tokens, End::first);
  const IntervalSet chosen = intersect(state_positions, tokens);
  return final_states ? unite(chosen, ends_of_documents(tokens, End::last)) : chosen;
}

IntervalSet Problem::ends_of_documents(const IntervalSet& tokens, End end) const {
  std::vector<Range> rows;
  for (const Range& range : tokens.ranges()) {
    for (const BandRectangle& document : mask.bands_meeting(range, Range{0, mask.keys()})) {
      const int64_t token = end == End::first ? document.q.begin : document.q.end - 1;
      if (range.contains(token)) rows.push_back({token, token + 1});
    }
  }
  return IntervalSet(std::span<const Range>(rows));
}

bool Problem::document_begins_in(Range tokens) const {
  const auto inside = mask.bands_meeting(tokens, Range{0, mask.keys()});
  return std::any_of(inside.begin(), inside.end(),
                     [&](const BandRectangle& document) { return tokens.contains(document.q.begin); });
}

void Problem::validate() const {
  const auto number = [](int64_t n) { return std::to_string(n); };
  require(heads >= 1 && heads <= 65536, "heads " + number(heads) + " is out of range; use 1 to 65536");
  require(kv_heads >= 1 && kv_heads <= heads && heads % kv_heads == 0,
          "kv-heads " + number(kv_heads) + " does not divide heads " + number(heads) +
              "; use a divisor, so that every kv head serves equally many query heads");
  require(dim >= 1 && dim <= 65536 && dim_v >= 1 && dim_v <= 65536,
          "head-dim " + number(dim) + " is out of range; use 1 to 65536");
  require(std::isfinite(scale), "scale is not a finite number; give one, or leave it out for 1/sqrt(head-dim)");
  require(query_layout.tokens() == mask.queries(),
          "the layout has " + number(query_layout.tokens()) + " queries, the mask " + number(mask.queries()));
  require(key_layout.tokens() == mask.keys(),
          "the layout has " + number(key_layout.tokens()) + " keys, the mask " + number(mask.keys()));
  require(query_layout.ranks() == key_layout.ranks(), "the layouts of queries and keys have different rank counts");
  require(size_of(wire) <= size_of(accumulator()), "wire type " + std::string(weft::name_of(wire)) +
                                                       " is wider than the accumulator " +
                                                       std::string(weft::name_of(accumulator())));
  // Bytes and pairs are counted in 64 bits; these bounds leave room for sums over fields and ranks.
  require(std::max(mask.queries(), mask.keys()) <= kMostElements / heads / std::max(dim, dim_v),
          "tokens x heads x head-dim is above 2^50; use fewer of either");
  int64_t work = 0;
  require(!__builtin_mul_overflow(mask.area(), heads, &work),
          "more than 2^63 pairs to attend; use fewer tokens or heads");
  require(element != DType::fp64 || wire == DType::fp64, "fp64 needs wire type fp64");
  if (layer != Layer::softmax) validate_linear();
  require(householders >= 1 && householders <= kMostHouseholders,
          "householders " + number(householders) + " is out of range; use 1 to " + number(kMostHouseholders));
  require(householders == 1 || traits_of(layer).mixing == Mixing::delta,
          "householders go with a layer that has a delta rule: deltanet, gdn or kda, not " +
              std::string(weft::name_of(layer)) + "; leave it out");
  require(layer != Layer::softmax || (!initial_states && !gives_states()),
          "initial_states, final_states and state_positions go with a linear layer; layer softmax has no state");
  const Range positions = state_positions.hull();
  require(positions.begin >= 0 && positions.end <= mask.queries(),
          "state position " + number(positions.begin < 0 ? positions.begin : positions.end - 1) + " is none of the " +
              number(mask.queries()) + " tokens; use 0 to " + number(mask.queries() - 1));
  require(key_heads == 0 || layer != Layer::softmax,
          "key-heads goes with a linear layer; softmax attention has kv-heads, which share k and v: use those");
  require(key_heads >= 0 && (key_heads == 0 || heads % key_heads == 0),
          "key-heads " + number(key_heads) + " does not divide heads " + number(heads) + "; use a divisor");
  require(log_decay.empty() || decay_of(layer) == Decay::constant,
          "log_decay goes with a layer that decays by a constant, as retnet does; leave it out");
  if (canonical_tile != 0 && layer == Layer::softmax) validate_canonical();
}

void Problem::validate_linear() const {
  const std::string name = weft::name_of(layer);
  const auto unless = [&](bool fine, const std::string& message) {
    if (!fine) throw Error(ErrorCode::unsupported, "layer " + name + message);
  };
  std::vector<int64_t> lengths;
  for (const BandRectangle& band : mask.bands()) lengths.push_back(band.q.size());
  const auto rule_is = [&](MaskRule rule) { return !lengths.empty() && mask == Mask::documents(lengths, rule); };
  if (layer != Layer::linear) {
    unless(
        rule_is({.causal = true}),
        " carries a state from token to token: it needs a causal mask, of one document or of packed ones; a full one "
        "goes with layer linear, which forgets nothing");
  } else {
    unless(rule_is({.causal = true}) || rule_is({}),
           " sums over all tokens before, or over all: it needs a causal or a full mask, of one document or of packed "
           "ones");
  }
  unless(!bidirectional() || (!initial_states && !gives_states()),
         " with a full mask has no state before or after a token; leave initial_states, final_states and "
         "state_positions out");
  unless(query_layout == key_layout, " needs queries and keys in one layout");
  unless(query_layout.axis().is_identity(),
         " needs shards made of neighbouring tokens; use layout contiguous or zigzag, not " + query_layout.name());
  unless(kv_heads == heads, " has a state for each head: kv-heads " + std::to_string(kv_heads) + " must equal heads " +
                                std::to_string(heads) + "; repeat k and v for the heads that share them");
  if (canonical_tile != 0) validate_canonical_recurrence(lengths);
  unless(!return_lse, " has no lse; leave return_lse out");
  const int64_t blocks = column_blocks(layer);
  unless(blocks < 2 || dim_v % blocks == 0, " multiplies columns of the state " + std::to_string(blocks) +
                                                " at a time: value-dim " + std::to_string(dim_v) +
                                                " must be a multiple of that");
  if (decay_of(layer) != Decay::constant) return;
  require(log_decay.size() == static_cast<size_t>(heads), "layer " + name + " needs a log_decay for each of " +
                                                              std::to_string(heads) + " heads, not " +
                                                              std::to_string(log_decay.size()));
  for (const double log : log_decay) {
    require(std::isfinite(log) && log <= 0,
            "log_decay " + std::to_string(log) + " is not a finite number of at most 0");
  }
}

// Every document is computed in chunks from its own begin, so nothing may cut one.
void Problem::validate_canonical_recurrence(const std::vector<int64_t>& lengths) const {
  const auto number = [](int64_t n) { return std::to_string(n); };
  const std::string name = weft::name_of(layer), tile = number(canonical_tile);
  require(canonical_tile == kCanonicalTile,
          "canonical tile " + tile + " of layer " + name + " is not " + number(kCanonicalTile) + "; use that");
  if (bidirectional() || (traits_of(layer).bonus && backward)) {
    throw Error(ErrorCode::unsupported, "layer " + name +
                                            (bidirectional() ? " with a full mask" : " with the gradient of u") +
                                            " sums over ranks and has no canonical results; leave canonical out");
  }
  const std::optional<int64_t> cut = first_cut_document_tile(query_layout, lengths, canonical_tile);
  require(!cut, "canonical results of a linear layer need shards that begin at multiples of " + tile +
                    " tokens from a document's begin, but one begins at position " + number(cut.value_or(0)) +
                    "; use rounded_to_document_tiles, or a layout by name with --canonical");
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    const IntervalSet inside = intersect(state_positions, Range{begin, begin + length - 1});
    for (const Range& range : inside.ranges()) {
      const int64_t last = range.size() > 1 || (range.end - begin) % canonical_tile != 0 ? range.begin : -1;
      require(last < 0, "canonical results need states after multiples of " + tile +
                            " tokens of a document, or after its last one, not after position " + number(last) +
                            "; ask for others, or leave canonical out");
    }
    begin += length;
  }
}

void Problem::validate_canonical() const {
  const auto number = [](int64_t n) { return std::to_string(n); };
  require(canonical_tile >= 1 && canonical_tile <= kCanonicalTile,
          "canonical tile " + number(canonical_tile) + " is out of range; use 1 to " + number(kCanonicalTile));
  require(wire == accumulator(), "canonical results need partial results to travel as they are, not as " +
                                     std::string(weft::name_of(wire)) + "; leave the wire type out");
  const auto require_aligned = [&](const Layout& layout, const char* side) {
    const std::optional<Layout::CutTile> found = layout.first_cut_tile(canonical_tile);
    if (!found) return;
    require(false, "canonical results need shards that begin and end at multiples of " + number(canonical_tile) +
                       " positions, but a run of " + side + " of rank " + number(found->rank) + " " +
                       (found->begins ? "begins" : "ends") + " at position " + number(found->position) +
                       "; use Layout::rounded_to_tiles, or a layout by name with --canonical");
  };
  require_aligned(key_layout, "keys");
  if (backward) require_aligned(query_layout, "queries");
  // A row gets at most one contribution from each tile, and one more for each rectangle of the mask that cuts one.
  const int64_t terms =
      std::max(mask.keys(), mask.queries()) / canonical_tile + 1 + static_cast<int64_t>(mask.bands().size());
  require(terms <= kMostCanonicalTerms / group(), "an exact sum holds " + number(kMostCanonicalTerms) +
                                                      " contributions, and this problem may have " + number(terms) +
                                                      " for each of " + number(group()) +
                                                      " heads; use fewer tokens or documents, or leave canonical out");
}

Fields AttentionShape::key_inputs() const {
  Fields fields = Field::k | Field::v;
  if (has_gates(layer)) fields = fields | Field::g;
  switch (traits_of(layer).mixing) {
    case Mixing::none: return fields;
    case Mixing::delta: return fields | Field::beta;
    case Mixing::low_rank: return fields | Field::a | Field::b;
    case Mixing::columns: return fields | Field::a;
  }
  return fields;
}

Fields AttentionShape::key_gradients() const {
  Fields fields;
  key_inputs().for_each([&](Field input) { fields = fields | gradient_of(input); });
  return fields;
}

Fields AttentionShape::shared_fields() const {
  return key_heads == 0 || key_heads == heads ? Fields() : Field::q | Field::k | Field::dq | Field::dk;
}

Fields AttentionShape::inputs_of(bool in_backward) const {
  Fields fields = Field::q | key_inputs();
  if (initial_states) fields = fields | Field::initial_state;
  if (!in_backward) return fields;
  fields = fields | Field::dout;
  if (gives_states()) fields = fields | Field::dfinal_state;
  return layer == Layer::softmax ? fields | Field::out | Field::lse : fields;
}

Fields AttentionShape::results_of(bool in_backward) const {
  if (in_backward) {
    const Fields fields = Field::dq | key_gradients();
    return initial_states ? fields | Field::dinitial_state : fields;
  }
  if (layer == Layer::softmax) return Field::out | Field::lse;
  return gives_states() ? Field::out | Field::final_state : Fields(Field::out);
}

int64_t AttentionShape::columns_of(Field field) const {
  switch (field) {
    case Field::transition:
      if (mixes_rows(layer)) return dim * dim;
      if (column_blocks(layer) > 0) return column_blocks(layer) * dim_v;
      [[fallthrough]];
    case Field::g:
    case Field::dg: return decay_of(layer) == Decay::channel ? dim : 1;
    case Field::state:
    case Field::dstate:
    case Field::initial_state:
    case Field::dinitial_state:
    case Field::final_state:
    case Field::dfinal_state: return dim * dim_v;
    case Field::a:
    case Field::da:
      if (column_blocks(layer) > 0) return column_blocks(layer) * dim_v;
      [[fallthrough]];
    case Field::q:
    case Field::dq:
    case Field::b:
    case Field::db:
    case Field::u:
    case Field::du: return dim;
    case Field::k:
    case Field::dk: return householders * dim;
    case Field::v:
    case Field::dv: return householders * dim_v;
    case Field::beta:
    case Field::dbeta: return householders;
    case Field::lse:
    case Field::delta: return 1;
    case Field::scores:
    case Field::probs:
    case Field::dprobs:
    case Field::dscores: return 0;
    default: return dim_v;
  }
}

DType AttentionShape::type_of(Field field, Form form) const {
  if (form == Form::accumulating && canonical_tile != 0 && layer == Layer::softmax) {
    if (field == Field::lse) return element == DType::fp64 ? DType::expsum3 : DType::expsum2;
    return element == DType::fp64 ? DType::sum3 : DType::sum2;
  }
  // Not of the element type: what is neither input nor result, and the few numbers that rule what is kept and written.
  constexpr Fields kBetween = Field::lse | Field::delta | Field::g | Field::dg | Field::beta | Field::dbeta |
                              kScoreFields | kStateFields | kDocumentFields | Field::u | Field::du;
  const bool multiplies = column_blocks(layer) > 0 && (field == Field::a || field == Field::da);
  return form == Form::accumulating || kBetween.has(field) || multiplies ? accumulator() : element;
}

IntervalSet Problem::columns_of_scores(const IntervalSet& queries) const {
  return pairs.keys_needed(queries, Range{0, key_layout.tokens()});
}

std::optional<int64_t> Problem::bytes_of_scores(const IntervalSet& queries, int64_t some_heads) const {
  int64_t elements = 0;
  if (__builtin_mul_overflow(queries.size(), columns_of_scores(queries).size(), &elements) ||
      __builtin_mul_overflow(elements, some_heads, &elements) || elements > kMostElements) {
    return std::nullopt;
  }
  return elements * size_of(accumulator());
}

DType AttentionShape::wire_type_of(Field field, Form form) const {
  const bool lowered =
      form == Form::accumulating && field != Field::lse && (canonical_tile == 0 || layer != Layer::softmax);
  return lowered ? wire : type_of(field, form);
}

int64_t AttentionShape::bytes_per_row(Fields fields, Form form) const {
  int64_t bytes = 0;
  fields.for_each([&](Field field) { bytes += columns_of(field) * size_of(type_of(field, form)); });
  return bytes;
}

int64_t AttentionShape::wire_bytes_per_row(Fields fields, Form form) const {
  int64_t bytes = 0;
  fields.for_each([&](Field field) { bytes += columns_of(field) * size_of(wire_type_of(field, form)); });
  return bytes;
}

int64_t AttentionShape::bytes_per_token(Fields fields, Form form) const {
  int64_t bytes = 0;
  fields.for_each([&](Field field) { bytes += bytes_per_row(field, form) * heads_of(field); });
  return bytes;
}

int64_t AttentionShape::wire_bytes_per_token(Fields fields, Form form) const {
  int64_t bytes = 0;
  fields.for_each([&](Field field) { bytes += wire_bytes_per_row(field, form) * heads_of(field); });
  return bytes;
}

Problem self_attention(Mask mask, Layout layout, int64_t heads, int64_t kv_heads, int64_t dim) {
  Problem problem(std::move(mask), layout, layout);
  problem.heads = heads;
  problem.kv_heads = kv_heads;
  problem.dim = problem.dim_v = dim;
  return problem;
}

}  // namespace weft
