#include "cli/command.h"

#include <utility>

namespace weft::cli {

void Command::example(std::string line) { examples_.push_back(std::move(line)); }

void Command::positional(std::string name, std::string help, std::string* target) {
  positionals_.push_back(
      {.name = std::move(name), .help = std::move(help), .set = [target](std::string_view given) { *target = given; }});
}

void Command::custom(Option option) {
  if (option.group.empty()) option.group = group_;
  options_.push_back(std::move(option));
}

void Command::flag(std::string name, std::string help, bool* target) {
  custom({.name = std::move(name), .help = std::move(help), .set = [target](std::string_view) { *target = true; }});
}

void Command::text(std::string name, std::string value, std::string help, std::string* target) {
  const std::string what = name;
  custom({.name = std::move(name),
          .value = std::move(value),
          .help = std::move(help),
          .set = [what, target](std::string_view given) {
            if (given.empty()) throw Error(ErrorCode::usage, what + ": the value is empty");
            *target = given;
          }});
}

void Command::count(std::string name, std::string value, std::string help, int64_t* target, Limits limits) {
  const std::string what = name;
  custom({.name = std::move(name),
          .value = std::move(value),
          .help = std::move(help),
          .set = [what, target, limits](std::string_view given) { *target = parse_count(what, given, limits); }});
}

void Command::number(std::string name, std::string value, std::string help, double* target) {
  const std::string what = name;
  custom({.name = std::move(name),
          .value = std::move(value),
          .help = std::move(help),
          .set = [what, target](std::string_view given) { *target = parse_double(what, given); }});
}

void Command::choice(std::string name, std::string value, std::string help, std::string* target,
                     std::vector<std::string> names) {
  const std::string what = name;
  custom({.name = std::move(name),
          .value = std::move(value),
          .help = std::move(help),
          .set = [what, target, names = std::move(names)](std::string_view given) {
            for (const std::string& known : names) {
              if (given == known) {
                *target = known;
                return;
              }
            }
            throw unknown_name_error(what, given, {names.begin(), names.end()});
          }});
}

}  // namespace weft::cli
