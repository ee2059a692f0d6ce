// The process around the program: signals, file descriptors, arguments.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "cli/commands.h"
#include "cli/program.h"

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

#ifdef WEFT_WITH_TORCH
std::vector<weft::cli::Command> commands_for(char**) { return weft::cli::torch_commands(); }
#else
// Gives way to weft-torch, the program beside this one, for a command that only stands for one of its own. Where there is no
// such program, the command says so.
std::vector<weft::cli::Command> commands_for(char** argv) {
  std::vector<weft::cli::Command> commands = weft::cli::all_commands();
  char** const words = argv[0] && argv[1] && argv[1] == std::string_view("help") ? argv + 1 : argv;
  const std::string_view name = words[0] && words[1] ? words[1] : "";
  for (const weft::cli::Command& command : commands) {
    if (command.name() != name || command.why_unavailable().empty()) continue;
    std::error_code error;
    const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
    if (!error) ::execv((self.parent_path() / "weft-torch").c_str(), argv);
  }
  return commands;
}
#endif

}  // namespace

int main(int argc, char** argv) {
  reserve_standard_descriptors();
  const std::vector<weft::cli::Command> commands = commands_for(argv);
  set_signals();
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  weft::cli::Output out(STDOUT_FILENO);
  weft::cli::Context context{.out = out, .stop = stop_flag};
  return weft::cli::run_program(commands, arguments, context, [](std::string_view line) {
    const std::string text = std::string(line) + "\n";
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
  });
}
