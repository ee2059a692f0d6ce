// Plain text tables for people.
//
//   Table table({{"method"}, {"bytes", Align::right}});
//   table.add_row({"ring", "12.0 MiB"});
//   table.text();
//       // method     bytes
//       // ------  --------
//       // ring    12.0 MiB
#pragma once

#include <string>
#include <vector>

namespace weft {

enum class Align { left, right };

struct Column {
  std::string title;
  Align align = Align::left;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // One cell per column.
  void add_row(std::vector<std::string> cells);
  // Head, rule and rows, two spaces between columns, no blanks at the end of a line; each line ends
  // with '\n'.
  std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace weft
