// Output: where a command's result goes, byte by byte, with every failure noticed.
//
//   context.out.write(table.text());
//
// Ordinary streams lose the error of a full disk or a closed pipe; then a script would read half a
// result and an exit code of 0.
#pragma once

#include <string>
#include <string_view>

namespace weft::cli {

class Output {
 public:
  // Writes to a file descriptor that stays the caller's.
  explicit Output(int descriptor) : descriptor_(descriptor) {}
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  // Buffered. Throws Error(io).
  void write(std::string_view text);
  // Writes out what is buffered; the program calls it after the action. Throws Error(io).
  void flush();

 private:
  int descriptor_;
  std::string buffer_;
};

}  // namespace weft::cli
