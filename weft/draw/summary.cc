#include "weft/draw/summary.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "weft/base/text.h"
#include "weft/schedule/shared_heads.h"

namespace weft {
namespace {

// Which rank owns which slots of one side.
class Owners {
 public:
  explicit Owners(const Layout& layout) : layout_(layout) {
    for (int rank = 0; rank < layout.ranks(); ++rank) {
      for (const Range& range : layout.shard(rank).ranges()) places_.push_back({range, rank});
    }
    std::sort(places_.begin(), places_.end(),
              [](const Place& a, const Place& b) { return a.range.begin < b.range.begin; });
  }

  // The owners of some slots, ascending.
  std::vector<int> of(const IntervalSet& slots) const {
    std::vector<int> owners;
    for (const Range& range : slots.ranges()) {
      auto at = std::partition_point(places_.begin(), places_.end(),
                                     [&](const Place& place) { return place.range.end <= range.begin; });
      for (; at != places_.end() && at->range.begin < range.end; ++at) owners.push_back(at->rank);
    }
    std::sort(owners.begin(), owners.end());
    owners.erase(std::unique(owners.begin(), owners.end()), owners.end());
    return owners;
  }

  // Which rows of its owner's shard these are: "" all, " lo" the first, " hi" the last, else " part".
  const char* part(const IntervalSet& slots, int owner) const {
    const IntervalSet& all = layout_.shard(owner);
    if (slots == all || slots.empty()) return "";
    const auto is_cut_at = [&](Range range) { return slots == intersect(all, range); };
    if (is_cut_at({all.hull().begin, slots.hull().end})) return " lo";
    if (is_cut_at({slots.hull().begin, all.hull().end})) return " hi";
    return " part";
  }

 private:
  struct Place {
    Range range;
    int rank;
  };
  const Layout& layout_;
  std::vector<Place> places_;
};

// "0-3,6": numbers ascending; at most three groups.
std::string compact(const std::vector<Range>& groups) {
  std::string text;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (i == 3) return text + ",..";
    if (i > 0) text += ",";
    text += std::to_string(groups[i].begin);
    if (groups[i].size() > 1) text += "-" + std::to_string(groups[i].end - 1);
  }
  return text;
}

std::string compact(const std::vector<int>& numbers) {
  IntervalSet set;
  for (int n : numbers) set.append(Range{n, n + 1});
  return compact(std::vector<Range>(set.ranges().begin(), set.ranges().end()));
}

void add_share(std::vector<Share>& shares, int owner, double work) {
  if (work == 0) return;
  for (Share& share : shares) {
    if (share.owner == owner) {
      share.work += work;
      return;
    }
  }
  shares.push_back({owner, work});
}

// Reads one rank's program into its cells.
class RankReader {
 public:
  using Cells = std::map<std::pair<bool, int64_t>, Cell>;  // by phase (backward) and step

  RankReader(const Schedule& schedule, int rank, const Owners& queries, const Owners& keys, int max_steps)
      : schedule_(schedule),
        problem_(schedule.problem()),
        rank_(rank),
        queries_(queries),
        keys_(keys),
        max_steps_(max_steps) {}

  void read() {
    const auto program = schedule_.open(rank_, pool_);
    for (Block block; program->next(block);) {
      for (const Instruction& i : block.instructions) instruction(block, i);
    }
  }

  Cells cells;
  RankTotals totals;
  bool truncated = false;
  bool values_apart = false;

 private:
  void instruction(const Block& block, const Instruction& i) {
    switch (i.op) {
      case Op::create:
      case Op::input: forms_[static_cast<uint32_t>(block.targets(i)[0].value)] = i.form; break;
      case Op::begin_backward:
        backward_ = true;
        phase_began_ = i.step;
        break;
      case Op::attend:
      case Op::attend_backward:
        for (const Slice& q : block.queries(i)) attend(cell(i), q, block.keys(i), 'k', 1);
        break;
      case Op::score:
      case Op::score_backward:
        for (const Slice& q : block.queries(i)) attend(cell(i), q, block.keys(i), 'k', 0.5);
        break;
      case Op::weigh:
      case Op::weigh_backward:
        for (const Slice& q : block.queries(i)) attend(cell(i), q, block.keys(i), 'v', 0.5);
        values_apart = true;
        break;
      case Op::scan:
      case Op::scan_backward:
        for (const Slice& q : block.queries(i)) attend(cell(i), q, block.keys(i), 'k', 1);
        break;
      case Op::exchange: exchange(cell(i), block, i); break;
      default: break;
    }
  }

  // Where an instruction counts; beyond the last step shown, nowhere.
  Cell& cell(const Instruction& i) {
    const int64_t step = int64_t{i.step} - phase_began_;
    if (step >= max_steps_ || step <= -max_steps_) {
      truncated = true;
      nowhere_ = {};
      return nowhere_;
    }
    return cells[{backward_, step}];
  }

  // `letter` names the keys; `share` is the part of attention that is done with them.
  void attend(Cell& cell, const Slice& q, std::span<const Slice> keys, char letter, double share) {
    const IntervalSet& rows = pool_[q.tokens];
    Computed computed;
    IntervalSet rows_used;
    std::vector<int> key_owners;
    std::string key_part;
    for (const Slice& k : keys) {
      const IntervalSet& all = pool_[k.tokens];
      for (int owner : keys_.of(all)) {
        const IntervalSet theirs = intersect(all, problem_.key_layout.shard(owner));
        const int64_t each = problem_.layer == Layer::softmax ? problem_.pairs.area(rows, theirs) : theirs.size();
        const double work = share * static_cast<double>(each) * static_cast<double>(pool_.size(q.heads));
        if (work == 0) continue;
        computed.work += work;
        add_share(cell.key_owners, owner, work);
        rows_used.unite(problem_.pairs.queries_needed(rows, theirs));
        key_owners.push_back(owner);
        key_part = keys_.part(problem_.pairs.keys_needed(rows, theirs), owner);
      }
    }
    if (computed.work == 0) return;
    (backward_ ? totals.work_backward : totals.work) += computed.work;

    std::sort(key_owners.begin(), key_owners.end());
    key_owners.erase(std::unique(key_owners.begin(), key_owners.end()), key_owners.end());
    computed.keys = letter + compact(key_owners) + (key_owners.size() == 1 ? key_part : "");
    const std::vector<int> row_owners = queries_.of(rows_used);
    const bool single = row_owners.size() == 1;
    const std::string row_part = single ? queries_.part(rows_used, row_owners[0]) : "";
    if (!single || row_owners[0] != rank_) {
      computed.queries = "q" + compact(row_owners) + row_part;
    } else if (!row_part.empty()) {
      computed.queries = "q" + row_part;
    }
    add_share(cell.query_owners, single ? row_owners[0] : -1, computed.work);
    const auto heads = pool_[q.heads].ranges();
    if (pool_.size(q.heads) != problem_.heads)
      computed.heads = "h" + compact(std::vector<Range>(heads.begin(), heads.end()));
    if (!cell.computed.empty() && cell.computed.back().label() == computed.label()) {
      cell.computed.back().work += computed.work;
    } else {
      cell.computed.push_back(std::move(computed));
    }
  }

  void exchange(Cell& cell, const Block& block, const Instruction& i) {
    const auto flows = [&](std::span<const Part> parts, std::vector<Flow>& to) {
      for_each_message(parts, [&](int peer, std::span<const Part> message) {
        if (peer == rank_) return;
        Flow flow{.peer = peer, .bytes = 0, .fields = {}, .lane = i.lane};
        for (const Part& part : message) {
          const Form form = forms_[static_cast<uint32_t>(part.slice.value)];
          flow.fields = flow.fields | part.slice.fields;
          flow.bytes +=
              static_cast<double>(rows_of(pool_, part.slice)) *
              static_cast<double>(wire_bytes_in_heads(pool_, problem_, part.slice.heads, part.slice.fields, form));
        }
        to.push_back(flow);
      });
    };
    const size_t sent = cell.sends.size();
    flows(block.outgoing(i), cell.sends);
    flows(block.incoming(i), cell.receives);
    for (size_t n = sent; n < cell.sends.size(); ++n) {
      ++totals.messages;
      totals.bytes_sent += cell.sends[n].bytes;
    }
  }

  const Schedule& schedule_;
  const Problem& problem_;
  const int rank_;
  const Owners& queries_;
  const Owners& keys_;
  const int max_steps_;
  SetPool pool_;
  std::unordered_map<uint32_t, Form> forms_;
  bool backward_ = false;
  int64_t phase_began_ = 0;
  Cell nowhere_;
};

}  // namespace

std::string Computed::label() const {
  std::string text = queries.empty() ? keys : queries + " x " + keys;
  return heads.empty() ? text : text + " " + heads;
}

double Cell::work() const {
  double sum = 0;
  for (const Computed& one : computed) sum += one.work;
  return sum;
}

Summary summarise(const Schedule& schedule, int max_ranks, int max_steps) {
  Summary summary;
  summary.ranks = schedule.ranks();
  summary.shown = std::min(schedule.ranks(), max_ranks);
  const Owners queries(schedule.problem().query_layout), keys(schedule.problem().key_layout);
  std::map<std::pair<bool, int64_t>, std::vector<Cell>> rows;
  for (int rank = 0; rank < summary.shown; ++rank) {
    RankReader reader(schedule, rank, queries, keys, max_steps);
    reader.read();
    summary.totals.push_back(reader.totals);
    summary.truncated |= reader.truncated;
    summary.values_apart |= reader.values_apart;
    for (auto& [key, cell] : reader.cells) {
      if (cell.idle()) continue;
      auto& row = rows[key];
      row.resize(static_cast<size_t>(summary.shown));
      row[static_cast<size_t>(rank)] = std::move(cell);
    }
  }
  for (auto& [key, row] : rows) {
    summary.forward_rows += !key.first;
    summary.cells.push_back(std::move(row));
  }
  return summary;
}

std::string bytes_text(double bytes) { return format_bytes(static_cast<int64_t>(std::min(bytes, 9e18))); }

std::string describe(const Mask& mask) {
  const std::vector<BandRectangle>& bands = mask.bands();
  if (bands.empty()) return "empty mask";
  const BandRectangle& first = bands[0];
  const bool below = first.lo <= kUnboundedBelow, above = first.hi >= kUnboundedAbove;
  MaskRule rule;
  bool known = below && above;
  if (first.hi == 0) {
    rule = {.causal = true, .window = below ? 0 : 1 - first.lo};
    known = first.lo <= 0;
  } else if (!above && first.lo == -first.hi) {
    rule = {.causal = false, .window = first.hi + 1};
    known = first.hi > 0;
  }
  const bool self = first.q == first.k;
  int64_t position = 0;
  for (const BandRectangle& band : bands) {
    const bool next = band.q.begin == position && (band.q == band.k || (!self && bands.size() == 1));
    known &= next && band.lo == first.lo && band.hi == first.hi;
    position = band.q.end;
  }
  if (!known || position != mask.queries()) return std::to_string(bands.size()) + " mask rectangles";
  if (bands.size() == 1) return to_string(rule);
  return std::to_string(bands.size()) + " documents, " + to_string(rule);
}

double total_work(const Problem& problem) {
  const int64_t each = problem.layer == Layer::softmax ? problem.mask.area() : problem.mask.queries();
  return static_cast<double>(each) * static_cast<double>(problem.heads);
}

std::string describe(const Problem& problem) {
  std::string text = std::to_string(problem.mask.queries()) + " tokens, ";
  if (problem.layer != Layer::softmax) text += "layer " + std::string(name_of(problem.layer)) + ", ";
  if (problem.mask.keys() != problem.mask.queries()) text += std::to_string(problem.mask.keys()) + " keys, ";
  text += describe(problem.mask) + ", " + std::to_string(problem.heads) + " heads of " + std::to_string(problem.dim);
  if (problem.layer != Layer::softmax) text += " x " + std::to_string(problem.dim_v);
  if (problem.kv_heads != problem.heads) text += " (" + std::to_string(problem.kv_heads) + " kv heads)";
  text += ", " + std::string(name_of(problem.element));
  if (problem.wire != problem.accumulator()) text += " (" + std::string(name_of(problem.wire)) + " on the wire)";
  if (problem.canonical_tile != 0) text += ", canonical";
  return text;
}

}  // namespace weft
