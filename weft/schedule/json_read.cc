#include <algorithm>
#include <limits>
#include <unordered_map>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/schedule/json.h"
#include "weft/schedule/json_values.h"

namespace weft {
namespace {

using json_internal::kMost;
using json_internal::kNone;
using json_internal::NodeId;
using json_internal::Tree;
using json_internal::Values;

// ---- problem

// Refusals of the classes of a problem, with the place.
template <typename F>
auto at(const Tree& tree, NodeId id, F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::format) throw;
    tree.fail(id, error.what());
  }
}

Mask mask_of(const Tree& tree, NodeId id, int64_t queries, int64_t keys) {
  const Values values(tree);
  const auto [rectangles] = values.members(id, {"rectangles"});
  std::vector<BandRectangle> bands;
  values.each(rectangles, [&](NodeId rectangle) {
    const auto [q, k, lo, hi] = values.members(rectangle, {"q", "k", "lo", "hi"});
    BandRectangle band{.q = values.range(q), .k = values.range(k)};
    if (!values.is_null(lo)) band.lo = values.integer(lo, -kMost, kMost);
    if (!values.is_null(hi)) band.hi = values.integer(hi, -kMost, kMost);
    bands.push_back(band);
  });
  return at(tree, id, [&] { return Mask::from_bands(queries, keys, std::move(bands)); });
}

Layout layout_of(const Tree& tree, NodeId id, int64_t tokens) {
  const Values values(tree);
  std::vector<std::vector<Run>> shards;
  values.each(id, [&](NodeId shard) {
    auto& runs = shards.emplace_back();
    values.each(shard, [&](NodeId run) {
      const auto [base, stride, count] = values.members(run, {"base", "stride", "count"});
      runs.push_back(
          {values.integer(base, 0, kMost), values.integer(stride, 1, kMost), values.integer(count, 0, kMost)});
    });
  });
  return at(tree, id, [&] { return Layout::from_runs(tokens, std::move(shards)); });
}

Problem problem_of(const Tree& tree, NodeId id) {
  const Values values(tree);
  const auto [tokens_id, key_tokens_id, heads, kv_heads, dim, dim_v, scale, backward, return_lse, element, wire,
              mask_id, layout, key_layout, canonical_tile, layer, log_decay, householders, initial_states, final_states,
              state_positions, key_heads] =
      values.members(id, {"tokens",         "key_tokens",   "heads",           "kv_heads", "head_dim",  "value_dim",
                          "scale",          "backward",     "return_lse",      "dtype",    "wire",      "mask",
                          "layout",         "key_layout",   "canonical_tile",  "layer",    "log_decay", "householders",
                          "initial_states", "final_states", "state_positions", "key_heads"},
                     8);
  const int64_t tokens = values.integer(tokens_id, 1, kMost), key_tokens = values.integer(key_tokens_id, 1, kMost);
  Mask mask = mask_of(tree, mask_id, tokens, key_tokens);
  Layout queries = layout_of(tree, layout, tokens);
  Layout keys = values.is_null(key_layout) ? queries : layout_of(tree, key_layout, key_tokens);
  if (keys.tokens() != key_tokens) {
    tree.fail(key_layout, "null stands for the layout of the queries, which has " + std::to_string(tokens) +
                              " tokens and not " + std::to_string(key_tokens));
  }
  return at(tree, id, [&] {
    Problem problem(std::move(mask), std::move(queries), std::move(keys));
    problem.heads = values.integer(heads, 1, kMost);
    problem.kv_heads = values.integer(kv_heads, 1, kMost);
    problem.dim = values.integer(dim, 1, kMost);
    problem.dim_v = values.integer(dim_v, 1, kMost);
    problem.scale = values.number(scale);
    if (problem.scale == 0) tree.fail(scale, "a scale of 0 makes all scores equal; use another");
    problem.backward = values.boolean(backward);
    problem.return_lse = values.boolean(return_lse);
    problem.element = values.dtype(element);
    problem.wire = values.dtype(wire);
    if (canonical_tile != kNone) problem.canonical_tile = values.integer(canonical_tile, 1, kCanonicalTile);
    if (layer != kNone) {
      problem.layer = static_cast<Layer>(
          values.choice(layer, "layer", kLayerCount, [](int i) { return name_of(static_cast<Layer>(i)); }));
    }
    if (log_decay != kNone)
      values.each(log_decay, [&](NodeId log) { problem.log_decay.push_back(values.number(log)); });
    if (key_heads != kNone) problem.key_heads = values.integer(key_heads, 1, kMost);
    if (householders != kNone) problem.householders = values.integer(householders, 1, kMost);
    if (initial_states != kNone) problem.initial_states = values.boolean(initial_states);
    if (final_states != kNone) problem.final_states = values.boolean(final_states);
    if (state_positions != kNone) {
      std::vector<int64_t> positions;
      values.each(state_positions, [&](NodeId id) { positions.push_back(values.integer(id, 0, tokens - 1)); });
      problem.ask_for_states(positions);
    }
    problem.validate();
    return problem;
  });
}

// ---- programs

// Turns the instructions of a document into stored programs.
class ProgramReader {
 public:
  ProgramReader(const Tree& tree, StoredSchedule& stored) : tree_(tree), values_(tree), stored_(stored) {}

  void read(uint32_t rank, NodeId id) {
    if (stored_.programs.size() <= rank) {
      end_program();
      stored_.programs.resize(rank + 1);
    }
    to_ = &stored_.programs[rank];
    const NodeId op_id = tree_.find(id, "op");
    if (op_id == kNone) tree_.fail(id, "field 'op' is missing");
    const int op =
        values_.choice(op_id, "op", kOpCount, [](int i) { return std::string_view(name_of(static_cast<Op>(i))); });
    instruction_ = {.op = static_cast<Op>(op)};
    instruction_.first =
        static_cast<uint32_t>(instruction_.op == Op::exchange ? to_->parts.size() : to_->slices.size());
    if (to_->parts.size() + to_->slices.size() > size_t{1} << 31) tree_.fail(id, "too many operands in one program");
    operands(id);
    to_->instructions.push_back(instruction_);
  }

  // To be called after the last instruction of all. Values keep the document's numbers, so that findings name them as
  // the reader knows them, unless the numbers are far apart: readings keep tables by number.
  void end_program() {
    if (births_.empty()) return;
    std::vector<std::pair<int64_t, ValueId>> numbers;
    for (const auto& [number, birth] : births_) numbers.emplace_back(number, birth.id);
    std::sort(numbers.begin(), numbers.end());
    const bool near = numbers.back().first < static_cast<int64_t>(4 * numbers.size() + 1024);
    std::vector<ValueId> final(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) {
      final[static_cast<size_t>(numbers[i].second)] =
          static_cast<ValueId>(near ? numbers[i].first : static_cast<int64_t>(i));
    }
    for (Slice& slice : to_->slices) slice.value = final[static_cast<size_t>(slice.value)];
    for (Part& part : to_->parts) part.slice.value = final[static_cast<size_t>(part.slice.value)];
    births_.clear();
  }

 private:
  // A value that the document names. While a program is read, ids count them in order of first mention.
  struct Birth {
    ValueId id{};
    Slice all;  // as it was made; empty when it never was
  };

  void operands(NodeId id) {
    switch (instruction_.op) {
      case Op::create: {
        const auto [op, step, value, form, fields, tokens, heads] =
            values_.members(id, {"op", "step", "value", "form", "fields", "tokens", "heads"});
        set_step(step);
        instruction_.form = static_cast<Form>(values_.choice(
            form, "form", kFormCount, [](int i) { return std::string_view(name_of(static_cast<Form>(i))); }));
        return born({birth(value).id, set(tokens), set(heads), fields_of(fields)}, value);
      }
      case Op::input: {
        const auto [op, step, value, fields, tokens, heads] =
            values_.members(id, {"op", "step", "value", "fields", "tokens", "heads"});
        set_step(step);
        return born({birth(value).id, set(tokens), set(heads), fields_of(fields)}, value);
      }
      case Op::drop: {
        const auto [op, step, value] = values_.members(id, {"op", "step", "value"});
        set_step(step);
        const Birth& known = birth(value);
        Slice all = known.all;
        all.value = known.id;
        to_->slices.push_back(all);
        instruction_.sources = 1;
        return;
      }
      case Op::exchange: {
        const auto [op, step, lane, send, receive] = values_.members(id, {"op", "step", "lane", "send", "receive"});
        set_step(step);
        set_lane(lane);
        instruction_.sources = messages(send, false);
        instruction_.targets = messages(receive, true);
        return;
      }
      case Op::wait: {
        const auto [op, step, lane] = values_.members(id, {"op", "step", "lane"});
        set_step(step);
        return set_lane(lane);
      }
      case Op::begin_backward: {
        const auto [op, step] = values_.members(id, {"op", "step"});
        return set_step(step);
      }
      case Op::result: {
        const auto [op, step, sources] = values_.members(id, {"op", "step", "sources"});
        set_step(step);
        instruction_.sources = slices(sources);
        return;
      }
      case Op::attend:
      case Op::score:
      case Op::weigh: {
        const auto [op, step, queries, keys, targets] =
            values_.members(id, {"op", "step", "queries", "keys", "targets"});
        set_step(step);
        instruction_.queries = slices(queries);
        instruction_.keys = slices(keys);
        instruction_.targets = slices(targets);
        return;
      }
      case Op::scan: {
        const auto [op, step, queries, keys, targets, bundles] =
            values_.members(id, {"op", "step", "queries", "keys", "targets", "bundles"}, 1);
        set_step(step);
        instruction_.queries = slices(queries);
        instruction_.keys = slices(keys);
        if (bundles != kNone) instruction_.bundles = slices(bundles);
        instruction_.targets = slices(targets);
        return;
      }
      case Op::attend_backward:
      case Op::weigh_backward:
      case Op::score_backward:
      case Op::apply_state:
      case Op::summarise_backward:
      case Op::scan_backward: {
        const auto [op, step, queries, keys, bundles, targets] =
            values_.members(id, {"op", "step", "queries", "keys", "bundles", "targets"});
        set_step(step);
        instruction_.queries = slices(queries);
        instruction_.keys = slices(keys);
        instruction_.bundles = slices(bundles);
        instruction_.targets = slices(targets);
        return;
      }
      case Op::summarise: {
        const auto [op, step, keys, targets] = values_.members(id, {"op", "step", "keys", "targets"});
        set_step(step);
        instruction_.keys = slices(keys);
        instruction_.targets = slices(targets);
        return;
      }
      case Op::apply_dstate: {
        const auto [op, step, keys, bundles, targets] =
            values_.members(id, {"op", "step", "keys", "bundles", "targets"});
        set_step(step);
        instruction_.keys = slices(keys);
        instruction_.bundles = slices(bundles);
        instruction_.targets = slices(targets);
        return;
      }
      case Op::compose: {
        const auto [op, step, sources, targets, bundles] =
            values_.members(id, {"op", "step", "sources", "targets", "bundles"}, 1);
        set_step(step);
        if (bundles != kNone) instruction_.bundles = slices(bundles);
        instruction_.sources = slices(sources);
        instruction_.targets = slices(targets);
        return;
      }
      case Op::prepare_backward:
      case Op::finish:
      case Op::merge:
      case Op::add:
      case Op::normalise:
      case Op::normalise_backward: {
        const auto [op, step, sources, targets] = values_.members(id, {"op", "step", "sources", "targets"});
        set_step(step);
        instruction_.sources = slices(sources);
        instruction_.targets = slices(targets);
        return;
      }
    }
  }

  void set_step(NodeId id) { instruction_.step = static_cast<uint32_t>(values_.integer(id, 0, kMost)); }
  void set_lane(NodeId id) { instruction_.lane = static_cast<uint8_t>(values_.integer(id, 0, kLanes - 1)); }

  Birth& birth(NodeId id) {
    const int64_t number = values_.integer(id, 0, std::numeric_limits<int64_t>::max());
    const auto [entry, fresh] = births_.try_emplace(number);
    if (fresh) entry->second.id = static_cast<ValueId>(births_.size() - 1);
    return entry->second;
  }

  void born(const Slice& all, NodeId value) {
    birth(value).all = all;
    to_->slices.push_back(all);
    instruction_.targets = 1;
  }

  Slice slice(NodeId value, NodeId fields, NodeId tokens, NodeId heads) {
    return {birth(value).id, set(tokens), set(heads), fields_of(fields)};
  }

  uint32_t slices(NodeId list) {
    values_.each(list, [&](NodeId one) {
      const auto [value, fields, tokens, heads] = values_.members(one, {"value", "fields", "tokens", "heads"});
      to_->slices.push_back(slice(value, fields, tokens, heads));
    });
    if (values_.size(list) == 0) tree_.fail(list, "expected at least one slice");
    return values_.size(list);
  }

  uint32_t messages(NodeId list, bool incoming) {
    const size_t begin = to_->parts.size();
    values_.each(list, [&](NodeId message) {
      const auto [peer_id, parts] = values_.members(message, {"peer", "parts"});
      Part part;
      part.peer = static_cast<int32_t>(values_.integer(peer_id, 0, kMost));
      values_.each(parts, [&](NodeId one) {
        if (incoming) {
          const auto [value, fields, tokens, heads, combine] =
              values_.members(one, {"value", "fields", "tokens", "heads", "combine"});
          part.slice = slice(value, fields, tokens, heads);
          part.combine = static_cast<Combine>(values_.choice(
              combine, "combine", 3, [](int i) { return std::string_view(name_of(static_cast<Combine>(i))); }));
        } else {
          const auto [value, fields, tokens, heads] = values_.members(one, {"value", "fields", "tokens", "heads"});
          part.slice = slice(value, fields, tokens, heads);
        }
        to_->parts.push_back(part);
      });
    });
    const auto first = to_->parts.begin() + static_cast<int64_t>(begin);
    std::stable_sort(first, to_->parts.end(), [](const Part& a, const Part& b) { return a.peer < b.peer; });
    return static_cast<uint32_t>(to_->parts.size() - begin);
  }

  SetId set(NodeId list) {
    ranges_.clear();
    values_.each(list, [&](NodeId range) { ranges_.push_back(values_.range(range)); });
    return stored_.pool->intern(IntervalSet(std::span<const Range>(ranges_)));
  }

  Fields fields_of(NodeId list) {
    Fields fields;
    values_.each(list, [&](NodeId name) {
      const Fields field = static_cast<Field>(values_.choice(
          name, "field", kFieldCount, [](int i) { return std::string_view(name_of(static_cast<Field>(i))); }));
      if (fields.includes(field)) tree_.fail(name, "given twice");
      fields = fields | field;
    });
    if (fields.empty()) tree_.fail(list, "expected at least one field");
    return fields;
  }

  const Tree& tree_;
  const Values values_;
  StoredSchedule& stored_;
  StoredProgram* to_ = nullptr;
  Instruction instruction_;
  std::unordered_map<int64_t, Birth> births_;  // of the program being read
  std::vector<Range> ranges_;
};

}  // namespace

Schedule schedule_from_json(std::string_view text, int64_t limit) {
  auto stored = std::make_shared<StoredSchedule>();
  stored->pool = std::make_unique<SetPool>();
  Tree tree;
  ProgramReader reader(tree, *stored);
  tree.read(text, {.instructions = limit}, [&](uint32_t rank, NodeId id) { reader.read(rank, id); });
  reader.end_program();

  const Values values(tree);
  const auto [format, version, method, problem_id, programs] =
      values.members(tree.root(), {"format", "version", "method", "problem", "programs"});
  if (values.string(format) != "weft-schedule")
    tree.fail(format, "expected 'weft-schedule', not " + in_quotes(values.string(format)));
  if (const int64_t number = values.integer(version, 0, kMost); number != 1) {
    tree.fail(version, "version " + std::to_string(number) + " of the format; this program reads version 1");
  }
  auto problem = std::make_shared<const Problem>(problem_of(tree, problem_id));
  uint32_t ranks = 0;
  values.each(programs, [&](NodeId) { ++ranks; });
  if (ranks != static_cast<uint32_t>(problem->ranks())) {
    tree.fail(programs,
              std::to_string(ranks) + " programs for the " + std::to_string(problem->ranks()) + " ranks of the layout");
  }
  stored->programs.resize(ranks);
  return Schedule(std::string(values.string(method)), std::move(problem), std::move(stored));
}

}  // namespace weft
