#include <nlohmann/json.hpp>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/schedule/json.h"
#include "weft/schedule/print.h"

namespace weft {
namespace {

// Text is put together by hand: a document tree of two million instructions would take gigabytes.
class JsonWriter {
 public:
  JsonWriter(const Schedule& schedule, const TextSink& sink)
      : schedule_(schedule), problem_(schedule.problem()), sink_(sink) {}

  void document() {
    text("{\n  \"format\": \"weft-schedule\",\n  \"version\": 1,\n  \"method\": ");
    text(quoted(schedule_.method()));
    text(",\n  \"problem\": {\n");
    problem();
    text("  },\n  \"programs\": [\n");
    for (int rank = 0; rank < schedule_.ranks(); ++rank) {
      text(rank == 0 ? "    [" : ",\n    [");
      program(rank);
    }
    text("\n  ]\n}\n");
    flush();
  }

 private:
  void text(std::string_view piece) {
    buffer_ += piece;
    if (buffer_.size() >= size_t{1} << 16) flush();
  }
  void flush() {
    sink_(buffer_);
    buffer_.clear();
  }
  void number(int64_t value) { text(std::to_string(value)); }
  static std::string quoted(const std::string& name) {
    return nlohmann::json(name).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }

  // ---- problem

  template <typename T>
  void member(std::string_view name, const T& value) {
    text("    \"");
    text(name);
    text("\": ");
    if constexpr (std::is_same_v<T, bool>) {
      text(value ? "true" : "false");
    } else if constexpr (std::is_same_v<T, int64_t>) {
      number(value);
    } else {
      text(value);
    }
    text(",\n");
  }

  void problem() {
    const auto name = [](DType type) { return "\"" + std::string(name_of(type)) + "\""; };
    if (problem_.layer != Layer::softmax) member("layer", "\"" + std::string(name_of(problem_.layer)) + "\"");
    if (!problem_.log_decay.empty()) log_decay();
    if (!problem_.shared_fields().empty()) member("key_heads", problem_.key_heads);
    if (problem_.householders != 1) member("householders", problem_.householders);
    if (problem_.initial_states) member("initial_states", true);
    if (problem_.final_states) member("final_states", true);
    if (!problem_.state_positions.empty()) state_positions();
    member("tokens", problem_.mask.queries());
    member("key_tokens", problem_.mask.keys());
    member("heads", problem_.heads);
    member("kv_heads", problem_.kv_heads);
    member("head_dim", problem_.dim);
    member("value_dim", problem_.dim_v);
    member("scale", format_double(problem_.softmax_scale()));
    member("backward", problem_.backward);
    member("return_lse", problem_.return_lse);
    member("dtype", name(problem_.element));
    member("wire", name(problem_.wire));
    if (problem_.canonical_tile != 0) member("canonical_tile", problem_.canonical_tile);
    text("    \"mask\": {\"rectangles\": [");
    bool first = true;
    for (const BandRectangle& band : problem_.mask.bands()) {
      text(first ? "\n      {\"q\": " : ",\n      {\"q\": ");
      first = false;
      range(band.q);
      text(", \"k\": ");
      range(band.k);
      text(", \"lo\": ");
      band.lo <= kUnboundedBelow ? text("null") : number(band.lo);
      text(", \"hi\": ");
      band.hi >= kUnboundedAbove ? text("null") : number(band.hi);
      text("}");
    }
    text(first ? "]},\n" : "\n    ]},\n");
    layout("layout", problem_.query_layout);
    text(",\n");
    if (problem_.key_layout == problem_.query_layout) {
      text("    \"key_layout\": null\n");
    } else {
      layout("key_layout", problem_.key_layout);
      text("\n");
    }
  }

  void state_positions() {
    text("    \"state_positions\": [");
    bool first = true;
    for (const Range& range : problem_.state_positions.ranges()) {
      for (int64_t position = range.begin; position < range.end; ++position) {
        text(first ? "" : ", ");
        first = false;
        number(position);
      }
    }
    text("],\n");
  }

  void log_decay() {
    text("    \"log_decay\": [");
    for (const double& log : problem_.log_decay) {
      if (&log != problem_.log_decay.data()) text(", ");
      text(format_double(log));
    }
    text("],\n");
  }

  void layout(std::string_view name, const Layout& layout) {
    text("    \"");
    text(name);
    text("\": [");
    for (int rank = 0; rank < layout.ranks(); ++rank) {
      text(rank == 0 ? "\n      [" : ",\n      [");
      bool first = true;
      for (const Run& run : layout.runs(rank)) {
        text(first ? "{\"base\": " : ", {\"base\": ");
        first = false;
        number(run.base);
        text(", \"stride\": ");
        number(run.stride);
        text(", \"count\": ");
        number(run.count);
        text("}");
      }
      text("]");
    }
    text("\n    ]");
  }

  // ---- programs

  void program(int rank) {
    SetPool pool;
    ValueNumbers numbers;
    pool_ = &pool;
    numbers_ = &numbers;
    const auto program = schedule_.open(rank, pool);
    bool first = true;
    for (Block block; program->next(block);) {
      for (const Instruction& i : block.instructions) {
        text(first ? "\n      " : ",\n      ");
        first = false;
        numbers.follow(block, i);
        instruction(block, i);
      }
    }
    text(first ? "]" : "\n    ]");
  }

  void instruction(const Block& block, const Instruction& i) {
    text("{\"op\": \"");
    text(name_of(i.op));
    text("\", \"step\": ");
    number(i.step);
    switch (i.op) {
      case Op::create:
        value(block.targets(i)[0]);
        text(", \"form\": \"");
        text(name_of(i.form));
        text("\"");
        rows(block.targets(i)[0]);
        break;
      case Op::input:
        value(block.targets(i)[0]);
        rows(block.targets(i)[0]);
        break;
      case Op::drop: value(block.sources(i)[0]); break;
      case Op::exchange:
        lane(i);
        messages("send", block.outgoing(i), false);
        messages("receive", block.incoming(i), true);
        break;
      case Op::wait: lane(i); break;
      case Op::begin_backward: break;
      case Op::attend:
      case Op::score:
      case Op::weigh:
        slices("queries", block.queries(i));
        slices("keys", block.keys(i));
        slices("targets", block.targets(i));
        break;
      case Op::scan:
        slices("queries", block.queries(i));
        slices("keys", block.keys(i));
        if (i.bundles > 0) slices("bundles", block.bundles(i));
        slices("targets", block.targets(i));
        break;
      case Op::attend_backward:
      case Op::weigh_backward:
      case Op::score_backward:
      case Op::apply_state:
      case Op::summarise_backward:
      case Op::scan_backward:
        slices("queries", block.queries(i));
        slices("keys", block.keys(i));
        slices("bundles", block.bundles(i));
        slices("targets", block.targets(i));
        break;
      case Op::summarise:
        slices("keys", block.keys(i));
        slices("targets", block.targets(i));
        break;
      case Op::apply_dstate:
        slices("keys", block.keys(i));
        slices("bundles", block.bundles(i));
        slices("targets", block.targets(i));
        break;
      case Op::compose:
        slices("sources", block.sources(i));
        if (i.bundles > 0) slices("bundles", block.bundles(i));
        slices("targets", block.targets(i));
        break;
      case Op::result: slices("sources", block.sources(i)); break;
      case Op::prepare_backward:
      case Op::finish:
      case Op::merge:
      case Op::add:
      case Op::normalise:
      case Op::normalise_backward:
        slices("sources", block.sources(i));
        slices("targets", block.targets(i));
        break;
    }
    text("}");
  }

  void lane(const Instruction& i) {
    text(", \"lane\": ");
    number(i.lane);
  }

  void messages(std::string_view name, std::span<const Part> parts, bool incoming) {
    open(name);
    bool first = true;
    for_each_message(parts, [&](int peer, std::span<const Part> message) {
      text(first ? "{\"peer\": " : ", {\"peer\": ");
      first = false;
      number(peer);
      text(", \"parts\": [");
      for (const Part& part : message) {
        if (&part != message.data()) text(", ");
        slice(part.slice);
        if (incoming) {
          text(", \"combine\": \"");
          text(name_of(part.combine));
          text("\"");
        }
        text("}");
      }
      text("]}");
    });
    text("]");
  }

  void slices(std::string_view name, std::span<const Slice> list) {
    open(name);
    for (const Slice& one : list) {
      if (&one != list.data()) text(", ");
      slice(one);
      text("}");
    }
    text("]");
  }

  void open(std::string_view name) {
    text(", \"");
    text(name);
    text("\": [");
  }

  // Leaves the object open, for a part's combine.
  void slice(const Slice& slice) {
    text("{\"value\": ");
    number(numbers_->of(slice.value));
    rows(slice);
  }

  void value(const Slice& slice) {
    text(", \"value\": ");
    number(numbers_->of(slice.value));
  }

  void rows(const Slice& slice) {
    text(", \"fields\": [");
    bool first = true;
    slice.fields.for_each([&](Field field) {
      text(first ? "\"" : ", \"");
      first = false;
      text(name_of(field));
      text("\"");
    });
    text("], \"tokens\": ");
    set(slice.tokens);
    text(", \"heads\": ");
    set(slice.heads);
  }

  void set(SetId id) {
    text("[");
    bool first = true;
    for (const Range& r : (*pool_)[id].ranges()) {
      if (!first) text(", ");
      first = false;
      range(r);
    }
    text("]");
  }

  void range(Range r) {
    text("[");
    number(r.begin);
    text(", ");
    number(r.end);
    text("]");
  }

  const Schedule& schedule_;
  const Problem& problem_;
  const TextSink& sink_;
  std::string buffer_;
  const SetPool* pool_ = nullptr;    // of the program being written
  ValueNumbers* numbers_ = nullptr;  // of the program being written
};

void check_size(const Schedule& schedule, int64_t limit) {
  int64_t total = 0;
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    SetPool pool;
    const auto program = schedule.open(rank, pool);
    for (Block block; program->next(block);) {
      total += static_cast<int64_t>(block.instructions.size());
      if (total > limit) {
        throw Error(ErrorCode::unsupported, "the schedule has more than " + std::to_string(limit) +
                                                " instructions; use fewer ranks, or --large");
      }
    }
  }
}

}  // namespace

void write_json(const Schedule& schedule, const TextSink& sink, int64_t limit) {
  check_size(schedule, limit);
  JsonWriter(schedule, sink).document();
}

std::string to_json(const Schedule& schedule, int64_t limit) {
  std::string result;
  write_json(
      schedule, [&](std::string_view piece) { result += piece; }, limit);
  return result;
}

}  // namespace weft
