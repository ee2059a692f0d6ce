// The list of methods, and the way from a name to a schedule.
//
//   Schedule schedule = make_schedule("zigzag", problem);
#pragma once

#include <span>

#include "weft/methods/method.h"

namespace weft {

// All methods of softmax attention, in the order of the documentation.
std::span<const Method* const> all_methods();
// All methods of linear layers.
std::span<const Method* const> linear_methods();
// Those that can compute this layer.
std::span<const Method* const> methods_for(Layer layer);

// A method of either family. Throws Error(usage) with the nearest name for an unknown one.
const Method& find_method(std::string_view name);

// The method's own layout for these documents.
Layout layout_of(std::string_view method, const Documents& documents, int ranks,
                 const std::map<std::string, std::string>& options = {});

// The layout that a user named, or the method's own when `name` is empty. The method's options are checked either way.
// With a tile, a layout of whole tiles of so many positions (Problem::canonical_tile).
Layout choose_layout(std::string_view name, std::string_view method, const Documents& documents, int ranks,
                     const std::map<std::string, std::string>& options = {}, int64_t tile = 0);

// What a method costs by its closed form, in microseconds. Never throws: what is not known, or what the method refuses,
// comes back as a reason.
Formula formula_of(const Method& method, const Configuration& configuration, const MethodOptions& options);
// The same for a problem, when it is of the kind that formulas know and its layout one that they know.
Formula formula_of(const Method& method, const Problem& problem, const MethodOptions& options);

// Validates the problem and makes the method's schedule. Throws Error(usage) or Error(unsupported).
Schedule make_schedule(std::string_view method, Problem problem,
                       const std::map<std::string, std::string>& options = {});

}  // namespace weft
