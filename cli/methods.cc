// weft methods: what is there to choose from.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/problem_options.h"
#include "weft/base/table.h"
#include "weft/methods/registry.h"

namespace weft::cli {
namespace {

using Json = nlohmann::ordered_json;

struct MethodsArguments {
  bool json = false;
};

// "allowed" is the list of all values where they are a list, or of the words beside the numbers from min to max.
Json option_as_json(const MethodOption& option) {
  Json json = {
      {"name", option.name}, {"type", name_of(option.kind)}, {"default", option.fallback}, {"allowed", option.choices}};
  if (option.kind == MethodOption::Kind::integer) {
    json["min"] = option.limits.min;
    json["max"] = option.limits.max;
  }
  json["meaning"] = option.meaning;
  return json;
}

std::vector<const Method*> listed() {
  std::vector<const Method*> list(all_methods().begin(), all_methods().end());
  list.insert(list.end(), linear_methods().begin(), linear_methods().end());
  return list;
}

std::string as_json() {
  Json list = Json::array();
  for (const Method* method : listed()) {
    Json entry = {{"name", method->name},   {"family", method->family == Family::linear ? "linear" : "softmax"},
                  {"paper", method->paper}, {"summary", method->summary},
                  {"masks", method->masks}, {"backward", true},
                  {"needs", method->needs}, {"reference", method->reference}};
    entry["alias_of"] = method->alias_of.empty() ? Json() : Json(method->alias_of);
    entry["options"] = Json::array();
    for (const MethodOption& option : method->options) {
      entry["options"].push_back(option_as_json(option));
    }
    list.push_back(std::move(entry));
  }
  return list.dump(2) + "\n";
}

// What to give instead of an alias.
std::string alias_as_command(const Method& alias) {
  std::string command(alias.alias_of);
  const auto& usual = find_method(alias.alias_of).options;
  for (const MethodOption& option : alias.options) {
    const bool same = std::any_of(usual.begin(), usual.end(), [&](const MethodOption& other) {
      return other.name == option.name && other.fallback == option.fallback;
    });
    if (!same) command += " --option " + std::string(option.name) + "=" + std::string(option.fallback);
  }
  return command;
}

std::string as_text() {
  Table table({{"method"}, {"idea"}, {"paper"}}), linear({{"method"}, {"idea"}, {"paper"}});
  std::string options, aliases;
  for (const Method* method : listed()) {
    (method->family == Family::linear ? linear : table)
        .add_row({std::string(method->name), std::string(method->summary), std::string(method->paper)});
    if (!method->alias_of.empty())
      aliases += "  " + std::string(method->name) + ": " + alias_as_command(*method) + ", on its own layout\n";
    for (const MethodOption& option : method->options) {
      options += "  " + std::string(method->name) + ": " + std::string(option.name) + " = " + option.allowed() +
                 " (default " + std::string(option.fallback) + "): " + std::string(option.meaning) + "\n";
    }
  }
  return table.text() +
         "\nAll have forward and backward, on every mask: full, causal, sliding window, packed documents.\n"
         "\nOf linear layers, named with --layer " +
         join(linear_layer_names()) + ":\n" + linear.text() + "\nOptions, given as --option key=value:\n" + options +
         "\nAliases:\n" + aliases;
}

int run(const MethodsArguments& options, Context& context) {
  context.out.write(options.json ? as_json() : as_text());
  return kExitFine;
}

}  // namespace

Command methods_command() {
  auto options = std::make_shared<MethodsArguments>();
  Command command("methods", "list the methods and what each can do");
  command.example("weft methods");
  command.example("weft methods --json");
  add_json_option(command, &options->json);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
