#include "weft/draw/text.h"

#include <algorithm>

#include "weft/base/table.h"
#include "weft/base/text.h"
#include "weft/draw/summary.h"

namespace weft {
namespace {

constexpr int kWideRanks = 8;  // above, cells are short and what travels is summed up beside them

std::string short_name(Fields fields) {
  std::string text = to_string(fields);
  for (const auto& [from, to] : {std::pair<std::string, std::string>{"dk+dv", "dkv"}, {"k+v", "kv"}}) {
    const size_t at = text.find(from);
    if (at != std::string::npos) text.replace(at, from.size(), to);
  }
  return text;
}

std::string percent(double part, double whole) { return whole <= 0 ? "" : format_fixed(100 * part / whole, 1) + "%"; }

// Messages of one cell as lines: "kv>3 1.0 MiB". Many at once, as in an all-to-all, become one line.
std::vector<std::string> arrows(const std::vector<Flow>& flows) {
  struct Bundle {
    Fields fields;
    int peer;
    int messages;
    double bytes;
  };
  std::vector<Bundle> bundles;
  const bool many = flows.size() > 3;
  for (const Flow& flow : flows) {
    const auto same = std::find_if(bundles.begin(), bundles.end(), [&](const Bundle& bundle) {
      return bundle.fields == flow.fields && (many || bundle.peer == flow.peer);
    });
    if (same == bundles.end()) {
      bundles.push_back({flow.fields, flow.peer, 1, flow.bytes});
    } else {
      ++same->messages;
      same->bytes += flow.bytes;
    }
  }
  std::vector<std::string> lines;
  for (const Bundle& bundle : bundles) {
    const std::string to =
        bundle.messages > 1 && many ? std::to_string(bundle.messages) + " ranks" : std::to_string(bundle.peer);
    lines.push_back(short_name(bundle.fields) + ">" + to + " " + bytes_text(bundle.bytes));
  }
  return lines;
}

class TextDrawing {
 public:
  TextDrawing(const Schedule& schedule, const TextOptions& options)
      : problem_(schedule.problem()),
        summary_(summarise(schedule, options.max_ranks, options.max_steps)),
        total_(total_work(problem_)),
        wide_(summary_.shown <= kWideRanks),
        table_(columns()) {
    text_ = schedule.method() + ", " + std::to_string(summary_.ranks) + (summary_.ranks == 1 ? " rank, " : " ranks, ") +
            describe(problem_) + "\n\n";
  }

  std::string draw() {
    for (int row = 0; row < summary_.rows(); ++row) {
      const bool backward = row >= summary_.forward_rows;
      if (row == summary_.forward_rows && row > 0) add_rows({}, {});
      const std::string name =
          (backward ? "back " : "step ") + std::to_string(row - (backward ? summary_.forward_rows : 0));
      wide_ ? add_wide(name, summary_.cells[static_cast<size_t>(row)])
            : add_narrow(name, summary_.cells[static_cast<size_t>(row)]);
    }
    add_totals();
    text_ += table_.text() + "\n" + notes();
    return text_;
  }

 private:
  std::vector<Column> columns() const {
    std::vector<Column> columns = {{""}};
    for (int rank = 0; rank < summary_.shown; ++rank)
      columns.push_back({(wide_ ? "rank " : "r") + std::to_string(rank)});
    if (!wide_) columns.push_back({"sent by these"});
    return columns;
  }

  // Rows under one name; cells[rank] are the lines of that rank.
  void add_rows(const std::string& name, const std::vector<std::vector<std::string>>& cells) {
    size_t height = 1;
    for (const auto& lines : cells) height = std::max(height, lines.size());
    for (size_t line = 0; line < height; ++line) {
      std::vector<std::string> row = {line == 0 ? name : ""};
      for (const auto& lines : cells) row.push_back(line < lines.size() ? lines[line] : "");
      row.resize(columns().size());
      table_.add_row(std::move(row));
    }
  }

  void add_wide(const std::string& name, const std::vector<Cell>& row) {
    size_t width = 0, height = 0;
    for (const Cell& cell : row) {
      for (const Computed& one : cell.computed) width = std::max(width, one.label().size());
      height = std::max(height, cell.computed.size());
    }
    std::vector<std::vector<std::string>> cells;
    for (const Cell& cell : row) {
      auto& lines = cells.emplace_back();
      for (const Computed& one : cell.computed) {
        const std::string label = one.label();
        lines.push_back(label + std::string(width - label.size() + 1, ' ') + percent(one.work, total_));
      }
      if (lines.empty()) lines.push_back("-");
      lines.resize(std::max<size_t>(height, 1));
      for (std::string& arrow : arrows(cell.sends)) lines.push_back(std::move(arrow));
    }
    add_rows(name, cells);
  }

  void add_narrow(const std::string& name, const std::vector<Cell>& row) {
    std::vector<std::vector<std::string>> cells;
    std::vector<Flow> sent;
    for (const Cell& cell : row) {
      auto& lines = cells.emplace_back();
      for (const Computed& one : cell.computed) {
        const std::string label = one.label();
        lines.push_back(label.starts_with("q ") ? label.substr(2) : label);
      }
      if (lines.empty()) lines.push_back("-");
      for (Flow flow : cell.sends) {
        const auto same =
            std::find_if(sent.begin(), sent.end(), [&](const Flow& f) { return f.fields == flow.fields; });
        if (same == sent.end()) {
          flow.peer = 1;
          sent.push_back(flow);
        } else {
          same->bytes += flow.bytes;
          ++same->peer;
        }
      }
    }
    auto& lines = cells.emplace_back();
    for (const Flow& flow : sent) {
      lines.push_back(short_name(flow.fields) + " " + bytes_text(flow.bytes) + " in " + std::to_string(flow.peer) +
                      (flow.peer == 1 ? " message" : " messages"));
    }
    add_rows(name, cells);
  }

  void add_totals() {
    add_rows({}, {});
    const auto row = [&](const std::string& name, auto&& text_of) {
      std::vector<std::vector<std::string>> cells;
      for (const RankTotals& totals : summary_.totals) cells.push_back({text_of(totals)});
      add_rows(name, cells);
    };
    row("work", [&](const RankTotals& t) { return percent(t.work, total_); });
    if (problem_.backward) row("back", [&](const RankTotals& t) { return percent(t.work_backward, total_); });
    row("sent", [&](const RankTotals& t) { return bytes_text(t.bytes_sent); });
    row("msgs", [&](const RankTotals& t) { return std::to_string(t.messages); });
  }

  std::string notes() const {
    std::string text = wide_ ? "k3: keys of rank 3; q: queries, where they are not all of the rank's own; lo, hi: "
                               "the "
                               "first, the last of them; h: heads\n%: share of all pairs; kv>3: sent to rank 3\n"
                             : "k3: keys of rank 3, all own queries; hi x k3: the last of the own queries; q2 x k3: "
                               "queries of rank 2; lo, hi: the first, the last of them; h: heads\n";
    if (problem_.layer != Layer::softmax)
      text +=
          "of a linear layer: shares of all tokens; state, dstate, transition: of a run of tokens (docs/linear.md)\n";
    if (summary_.values_apart)
      text += "scores are computed with k3, the keys of rank 3, and weighed with v3, its values\n";
    if (summary_.shown < summary_.ranks) {
      text +=
          "ranks 0 to " + std::to_string(summary_.shown - 1) + " of " + std::to_string(summary_.ranks) + " are shown\n";
    }
    if (summary_.truncated) text += "later steps are not shown; the totals count them\n";
    return text;
  }

  const Problem& problem_;
  const Summary summary_;
  const double total_;
  const bool wide_;
  Table table_;
  std::string text_;
};

}  // namespace

std::string draw_text(const Schedule& schedule, const TextOptions& options) {
  return TextDrawing(schedule, options).draw();
}

}  // namespace weft
