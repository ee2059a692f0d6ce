#include "weft/methods/registry.h"

#include <algorithm>
#include <array>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/layout/document_tiles.h"
#include "weft/methods/methods.h"

namespace weft {
namespace {

// One line per method: the order is that of `weft methods` and of the documentation.
constexpr std::array kMethods = {
    &methods::ring,         &methods::zigzag,     &methods::striped, &methods::all_gather,  &methods::lss,
    &methods::llama3,       &methods::ulysses,    &methods::usp,     &methods::double_ring, &methods::token_ring,
    &methods::lightseq,     &methods::group_cast, &methods::mesh,    &methods::burst,       &methods::tree,
    &methods::mercury_team, &methods::rsa,        &methods::tasp,
};

constexpr std::array kLinearMethods = {
    &methods::chain,        &methods::all_scan,      &methods::all_gather_state, &methods::log_step,
    &methods::hierarchical, &methods::head_exchange, &methods::two_dimensional,
};

void check_family(const Method& method, Layer layer) {
  const bool linear = layer != Layer::softmax;
  if ((method.family == Family::linear) == linear) return;
  std::vector<std::string_view> names;
  for (const Method* other : methods_for(layer)) names.push_back(other->name);
  throw Error(ErrorCode::unsupported,
              "method " + std::string(method.name) +
                  (linear ? " computes softmax attention, not layer " + std::string(name_of(layer)) + "; use "
                          : " computes linear layers; give --layer " + join(linear_layer_names()) +
                                ", or for softmax attention use ") +
                  join(names));
}

// Refuses a linear method that lacks what the problem asks for, and names those that have it.
void require_linear(const Method& method, bool Method::*ability, const std::string& why) {
  if (method.*ability) return;
  std::vector<std::string_view> names;
  for (const Method* other : linear_methods()) {
    if (other->*ability) names.push_back(other->name);
  }
  throw Error(ErrorCode::unsupported, "method " + std::string(method.name) + why + join(names));
}

void check_abilities(const Method& method, const Problem& problem) {
  if (problem.layer == Layer::softmax) return;
  if (problem.bidirectional())
    require_linear(method, &Method::both_ways, " scans from the first token to the last; for a full mask use ");
  if (problem.canonical_tile != 0)
    require_linear(method, &Method::in_order,
                   " joins states of runs in another order than one rank; for canonical results use ");
}

}  // namespace

std::span<const Method* const> all_methods() { return kMethods; }
std::span<const Method* const> linear_methods() { return kLinearMethods; }
std::span<const Method* const> methods_for(Layer layer) {
  return layer == Layer::softmax ? all_methods() : linear_methods();
}

const Method& find_method(std::string_view name) {
  std::vector<std::string_view> known;
  for (const auto methods : {all_methods(), linear_methods()}) {
    for (const Method* method : methods) {
      if (method->name == name) return *method;
      known.push_back(method->name);
    }
  }
  throw unknown_name_error("method", name, known);
}

Layout layout_of(std::string_view method, const Documents& documents, int ranks,
                 const std::map<std::string, std::string>& options) {
  const Method& found = find_method(method);
  return found.layout(documents, ranks, MethodOptions(found.name, found.options, options));
}

Layout choose_layout(std::string_view name, std::string_view method, const Documents& documents, int ranks,
                     const std::map<std::string, std::string>& options, int64_t tile) {
  const auto make = [&](const std::vector<int64_t>& of) {
    Layout own = layout_of(method, Documents(of, documents.rule), ranks, options);
    return name.empty() ? own : make_layout(name, of, ranks);
  };
  if (tile == 0) return make(documents.lengths);
  const Layout exact = make(documents.lengths);
  if (find_method(method).family == Family::linear && exact.axis().is_identity())
    return rounded_to_document_tiles(exact, documents.lengths, tile);
  return make_tiled_layout(documents.lengths, tile, make);
}

Formula formula_of(const Method& method, const Configuration& configuration, const MethodOptions& options) {
  if (method.formula == nullptr) return no_formula("method " + std::string(method.name) + " has no closed form");
  // Counts are sums over ranks of tokens x heads x columns x a few bytes.
  constexpr double kMost = 0x1p56;
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  const double columns = real(std::max(configuration.dim, configuration.dim_v));
  const double rows = real(configuration.tokens) * real(configuration.heads);
  if (rows * std::max(columns * configuration.ranks, real(configuration.tokens)) > kMost) {
    return no_formula("too large: the counts of all ranks together do not fit into 64 bits");
  }
  try {
    return method.formula(configuration, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    return no_formula(error.what());
  }
}

Formula formula_of(const Method& method, const Problem& problem, const MethodOptions& options) {
  const int64_t tokens = problem.mask.queries();
  if (problem.mask.keys() != tokens || !(problem.query_layout == problem.key_layout)) {
    return no_formula("closed forms are for self-attention");
  }
  Configuration c;
  static_cast<AttentionShape&>(c) = problem;
  c.ranks = problem.ranks();
  c.tokens = tokens;
  const MaskRule full, causal{.causal = true};
  if (problem.mask == Mask::of(tokens, causal)) {
    c.mask = causal;
  } else if (!(problem.mask == Mask::of(tokens, full))) {
    return no_formula("closed forms are for one document with a full or a causal mask");
  }
  if (problem.query_layout == method.layout({tokens}, c.ranks, options)) return formula_of(method, c, options);
  for (const std::string_view name : {"contiguous", "zigzag", "striped"}) {
    c.layout = name;
    if (problem.query_layout == make_layout(name, {tokens}, c.ranks)) return formula_of(method, c, options);
  }
  return no_formula("no closed form on this layout; known: contiguous, zigzag, striped");
}

Schedule make_schedule(std::string_view method, Problem problem, const std::map<std::string, std::string>& options) {
  const Method& found = find_method(method);
  const MethodOptions parsed(found.name, found.options, options);
  check_family(found, problem.layer);
  problem.validate();
  check_abilities(found, problem);
  auto shared = std::make_shared<const Problem>(std::move(problem));
  Writer writer = found.writer(shared, parsed);
  return Schedule(std::string(found.name), std::move(shared), std::move(writer));
}

}  // namespace weft
