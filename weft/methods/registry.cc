#include "weft/methods/registry.h"

#include <array>

#include "weft/base/text.h"
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

}  // namespace

std::span<const Method* const> all_methods() { return kMethods; }

const Method& find_method(std::string_view name) {
  std::vector<std::string_view> known;
  for (const Method* method : kMethods) {
    if (method->name == name) return *method;
    known.push_back(method->name);
  }
  throw unknown_name_error("method", name, known);
}

Layout layout_of(std::string_view method, const std::vector<int64_t>& lengths, int ranks,
                 const std::map<std::string, std::string>& options) {
  const Method& found = find_method(method);
  return found.layout(lengths, ranks, MethodOptions(found.name, found.options, options));
}

Layout choose_layout(std::string_view name, std::string_view method, const std::vector<int64_t>& lengths, int ranks,
                     const std::map<std::string, std::string>& options, int64_t tile) {
  const auto make = [&](const std::vector<int64_t>& of) {
    Layout own = layout_of(method, of, ranks, options);
    return name.empty() ? own : make_layout(name, of, ranks);
  };
  return tile == 0 ? make(lengths) : make_tiled_layout(lengths, tile, make);
}

Schedule make_schedule(std::string_view method, Problem problem, const std::map<std::string, std::string>& options) {
  const Method& found = find_method(method);
  const MethodOptions parsed(found.name, found.options, options);
  problem.validate();
  auto shared = std::make_shared<const Problem>(std::move(problem));
  Writer writer = found.writer(shared, parsed);
  return Schedule(std::string(found.name), std::move(shared), std::move(writer));
}

}  // namespace weft
