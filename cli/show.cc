// weft show: a schedule as a table, as a picture, or as the document that verify reads.
#include <limits>
#include <memory>

#include "cli/commands.h"
#include "cli/problem_options.h"
#include "cli/schedules.h"
#include "weft/draw/svg.h"
#include "weft/draw/text.h"
#include "weft/files/atomic_file.h"
#include "weft/schedule/json.h"
#include "weft/schedule/print.h"

namespace weft::cli {
namespace {

struct ShowArguments {
  std::string method;
  std::string svg;
  bool verbose = false;
  bool large = false;
  ProblemOptions problem;
};

// Every instruction of every rank, as the programs are written: nothing is kept, so the size does not matter.
void list_instructions(const Schedule& schedule, Context& context) {
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    context.out.write("rank " + std::to_string(rank) + "\n");
    SetPool pool;
    ValueNumbers numbers;
    const auto program = schedule.open(rank, pool);
    int64_t number = 0;
    for (Block block; program->next(block);) {
      context.stop.poll();
      for (const Instruction& instruction : block.instructions) {
        numbers.follow(block, instruction);
        context.out.write("  " + std::to_string(number++) + "  " +
                          print(schedule.problem(), pool, numbers, block, instruction) + "\n");
      }
    }
  }
}

int run(const ShowArguments& given, Context& context) {
  ShowArguments options = given;
  require_method(options.method, "show");
  options.problem.check();
  if (options.problem.json + options.verbose + !options.svg.empty() > 1) {
    throw Error(ErrorCode::usage, "more than one of --json, --svg and --verbose is given; choose one");
  }
  const Schedule schedule = schedule_for(options.method, options.problem, options.problem.backward);
  if (options.problem.json) {
    const int64_t limit = options.large ? std::numeric_limits<int64_t>::max() : Schedule::kStoreLimit;
    write_json(
        schedule,
        [&](std::string_view piece) {
          context.stop.poll();
          context.out.write(piece);
        },
        limit);
  } else if (!options.svg.empty()) {
    write_file(options.svg, draw_svg(schedule));
    context.out.write("wrote " + options.svg + "\n");
  } else if (options.verbose) {
    list_instructions(schedule, context);
  } else {
    context.out.write(draw_text(schedule));
  }
  return kExitFine;
}

}  // namespace

Command show_command() {
  auto options = std::make_shared<ShowArguments>();
  Command command("show", "print or draw the schedule that a method writes");
  command.example("weft show zigzag --ranks 4 --tokens 4096 --mask causal");
  command.example("weft show usp --ranks 4 --tokens 4096 --backward --svg usp.svg");
  command.example("weft show ring --ranks 3 --tokens 12 --verbose");
  command.example("weft show ring --ranks 3 --tokens 12 --kv-tokens 30 --mask full --verbose");
  command.example("weft show chain --layer gla --ranks 4 --tokens 4096 --backward");
  add_method_name(command, "method to show; weft methods lists them", &options->method);
  command.text("--svg", "FILE", "draw it into this file", &options->svg);
  command.flag("--verbose", "list every instruction of every rank, numbered as verify numbers them", &options->verbose);
  command.flag("--large", "allow JSON of more than 2 million instructions", &options->large);
  add_problem_options(command, options->problem);
  command.action([options](Context& context) { return run(*options, context); });
  return command;
}

}  // namespace weft::cli
