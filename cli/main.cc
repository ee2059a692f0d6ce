// The process around the program: signals, file descriptors, arguments.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/launch.h"
#include "cli/program.h"
#ifdef WEFT_WITH_MPI
#include "weft/mpi/mpi_processes.h"
#endif

namespace {

weft::StopFlag stop_flag;  // lock-free, so a signal handler may raise it

extern "C" void on_interrupt(int) { stop_flag.raise(); }

void set_signals() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second Ctrl-C ends the process at once
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe becomes an error of write()
}

// If the caller closed stdout, the next file to be opened would take its place and receive the
// result.
void reserve_standard_descriptors() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (::fcntl(descriptor, F_GETFD) < 0 && ::open("/dev/null", O_RDONLY) < 0) std::abort();
  }
}

// Becomes another program of weft, beside this one, if there is one.
[[maybe_unused]] void give_way_to(const char* program, char** argv) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) ::execv((self.parent_path() / program).c_str(), argv);
}

#ifdef WEFT_WITH_TORCH
std::vector<weft::cli::Command> commands_for(char**) { return weft::cli::torch_commands(); }
#else
// Gives way to weft-torch for a command that only stands for one of its own. Where there is no such program, the command
// says so.
std::vector<weft::cli::Command> commands_for(char** argv) {
  std::vector<weft::cli::Command> commands = weft::cli::all_commands();
  char** const words = argv[0] && argv[1] && argv[1] == std::string_view("help") ? argv + 1 : argv;
  const std::string_view name = words[0] && words[1] ? words[1] : "";
  for (const weft::cli::Command& command : commands) {
    if (command.name() == name && !command.why_unavailable().empty()) give_way_to("weft-torch", argv);
  }
  return commands;
}
#endif

void write_line(std::string_view line) {
  const std::string text = std::string(line) + "\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

#ifdef WEFT_WITH_MPI
// One of several processes: rank 0 speaks for all.
int run_on_processes(const std::vector<weft::cli::Command>& commands, const std::vector<std::string>& arguments,
                     const weft::cli::Launch& launch) {
  std::signal(SIGTERM, on_interrupt);  // what mpirun sends when it is interrupted
  std::unique_ptr<weft::MpiProcesses> processes;
  try {
    weft::MpiOptions options;
    if (const char* given = std::getenv("WEFT_MPI_PROGRESS")) {
      options.progress_microseconds =
          static_cast<int>(weft::parse_count("WEFT_MPI_PROGRESS", given, {.min = 0, .max = 1'000'000}));
    }
    if (const char* given = std::getenv("WEFT_MPI_TIMEOUT")) {
      options.timeout_milliseconds =
          1000 * weft::parse_count("WEFT_MPI_TIMEOUT", given, {.min = 0, .max = 1'000'000'000});
    }
    processes = std::make_unique<weft::MpiProcesses>(&stop_flag, options);
  } catch (const weft::Error& error) {
    if (launch.rank == 0) write_line(std::string("weft: error: ") + error.what());
    return weft::cli::kExitUsage;
  }
  const bool first = processes->endpoint().rank() == 0;
  weft::cli::Output out(first ? STDOUT_FILENO : ::open("/dev/null", O_WRONLY));
  weft::cli::Context context{.out = out, .stop = stop_flag, .processes = processes.get()};
  std::string complaint;
  const int code = weft::cli::run_program(commands, arguments, context, [&](std::string_view line) {
    complaint = line;
    if (first) write_line(line);
  });
  processes->end(code, complaint);
  return code;
}
#else
// Without MPI in this program: another one does it, or nobody.
int run_on_processes(char** argv, const weft::cli::Launch& launch) {
  give_way_to("weft-mpi", argv);
  if (launch.rank == 0) write_line("weft: error: " + weft::cli::no_mpi_here(launch));
  return weft::cli::kExitUsage;
}
#endif

}  // namespace

int main(int argc, char** argv) {
  reserve_standard_descriptors();
  const std::vector<weft::cli::Command> commands = commands_for(argv);
  const std::optional<weft::cli::Launch> launch = weft::cli::launched();
  set_signals();
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
#ifdef WEFT_WITH_MPI
  if (launch) return run_on_processes(commands, arguments, *launch);
#else
  if (launch && launch->ranks > 1) return run_on_processes(argv, *launch);
#endif
  weft::cli::Output out(STDOUT_FILENO);
  weft::cli::Context context{.out = out, .stop = stop_flag};
  return weft::cli::run_program(commands, arguments, context, write_line);
}
