#include "weft/schedule/json.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/schedule/builder.h"
#include "weft/schedule/print.h"

namespace weft {
namespace {

// Two ranks exchange keys and values: small, and with every kind of operand.
Steps write(std::shared_ptr<const Problem> problem, int rank, Builder& b) {
  const int other = 1 - rank;
  Value q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value acc = b.partial(q), theirs = b.whole(Field::k | Field::v, b.keys_of(other), b.all_kv_heads());
  b.exchange().send(other, kv).receive(other, theirs).issue();
  b.attend(q, kv, acc);
  co_yield Step{};
  Value again = b.partial(q);
  b.attend(q, theirs, again);
  b.merge(acc, again);
  b.result(b.finish(acc));
  if (!problem->backward) co_return;
  acc.reset(), again.reset(), q.reset(), kv.reset();
  b.begin_backward();
  co_yield Step{};
  q = b.input(Field::q), kv = b.input(Field::k | Field::v);
  Value out = b.input(Field::out | Field::lse), dout = b.input(Field::dout);
  Value delta = b.prepare_backward(out.only(Field::out), dout);
  Value dq = b.sums(Field::dq, q.tokens(), q.heads());
  Value own = b.sums(Field::dk | Field::dv, kv.tokens(), kv.heads());
  Value away = b.sums(Field::dk | Field::dv, theirs.tokens(), theirs.heads());
  b.attend_backward(q, theirs, {dout, out.only(Field::lse), delta}, dq, away);
  b.exchange(1).send(other, away).receive(other, own, Combine::add).issue();
  b.attend_backward(q, kv, {dout, out.only(Field::lse), delta}, dq, own);
  b.wait(1);
  Value home = b.sums(Field::dk | Field::dv, kv.tokens(), kv.heads());
  b.add(home, own);
  b.result(b.finish(home));
  b.result(b.finish(dq));
}

Schedule small(bool backward = true) {
  Problem problem =
      self_attention(Mask::documents({3, 6}, {.causal = true, .window = 4}), Layout::zigzag(9, 2), 4, 2, 8);
  problem.backward = backward;
  auto shared = std::make_shared<const Problem>(std::move(problem));
  return Schedule("by \"hand\"\n", shared, [shared](int rank, Builder& b) { return write(shared, rank, b); });
}

std::string message_of(const std::string& text, int64_t limit = Schedule::kStoreLimit) {
  try {
    schedule_from_json(text, limit);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::format) << error.what();
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
    return error.what();
  }
  return "";
}

// The document with the first `from` after `after` replaced.
std::string changed(std::string_view from, std::string_view to, std::string_view after = "") {
  std::string text = to_json(small());
  const size_t begin = text.find(after);
  const size_t at = begin == std::string::npos ? begin : text.find(from, begin);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Json, CanonicalTileIsThereOnlyIfGiven) {
  EXPECT_EQ(to_json(small()).find("canonical_tile"), std::string::npos);
  EXPECT_EQ(schedule_from_json(to_json(small())).problem().canonical_tile, 0);
  Problem tiled = self_attention(Mask::of(16, {}), Layout::contiguous(16, 2), 4, 2, 8);
  tiled.canonical_tile = 4;
  auto shared = std::make_shared<const Problem>(std::move(tiled));
  const std::string text =
      to_json(Schedule("tiled", shared, [shared](int rank, Builder& b) { return write(shared, rank, b); }));
  EXPECT_EQ(schedule_from_json(text).problem().canonical_tile, 4);
  EXPECT_EQ(to_json(schedule_from_json(text)), text);
  std::string cut = text;
  cut.replace(cut.find("\"canonical_tile\": 4"), 19, "\"canonical_tile\": 3");
  EXPECT_NE(message_of(cut).find("begin and end at multiples of 3 positions"), std::string::npos) << message_of(cut);
}

TEST(Json, RoundTripIsExact) {
  const std::string text = to_json(small());
  const Schedule read = schedule_from_json(text);
  EXPECT_EQ(to_json(read), text);
  EXPECT_EQ(read.method(), "by \"hand\"\n");
  EXPECT_EQ(read.problem().mask, small().problem().mask);
  EXPECT_EQ(read.problem().query_layout, small().problem().query_layout);
  EXPECT_TRUE(read.problem().backward);
}

TEST(Json, OneInstructionPerLine) {
  SetPool pool;
  int64_t instructions = 0;
  for (int rank = 0; rank < 2; ++rank) {
    const auto program = small().open(rank, pool);
    for (Block block; program->next(block);) instructions += static_cast<int64_t>(block.instructions.size());
  }
  const std::string text = to_json(small());
  int64_t lines = 0;
  for (size_t at = 0; (at = text.find("\n      {\"op\": ", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, instructions);
}

TEST(Json, ReadProgramsEqualWrittenOnes) {
  const Schedule written = small(), read = schedule_from_json(to_json(written));
  for (int rank = 0; rank < 2; ++rank) {
    SetPool pool;
    ValueNumbers a, b;
    std::vector<std::string> one, two;
    const auto list = [&](const Schedule& schedule, ValueNumbers& numbers, std::vector<std::string>& to) {
      const auto program = schedule.open(rank, pool);
      for (Block block; program->next(block);) {
        for (const Instruction& i : block.instructions) {
          numbers.follow(block, i);
          to.push_back(print(schedule.problem(), pool, numbers, block, i));
        }
      }
    };
    list(written, a, one);
    list(read, b, two);
    EXPECT_EQ(one, two);
  }
}

TEST(Json, LimitsInstructions) {
  const std::string text = to_json(small());
  EXPECT_NE(message_of(text, 20).find("more than 20 instructions"), std::string::npos);
  bool wrote = false;
  EXPECT_THROW(write_json(
                   small(), [&](std::string_view) { wrote = true; }, 20),
               Error);
  EXPECT_FALSE(wrote);
}

TEST(Json, NamesThePlaceOfAMistake) {
  const auto refused = [](const std::string& text, std::string_view part) {
    const std::string message = message_of(text);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refused("", "not JSON at line 1, column 1: unexpected end of the text");
  refused("{\n \"format\": nope}", "not JSON at line 2, column 13");
  refused("[1]", "the document: expected an object");
  refused("17", "the document: expected an object");
  refused(to_json(small()) + "x", "not JSON at line");
  refused(changed("weft-schedule", "other"), "format: expected 'weft-schedule', not 'other'");
  refused(changed("\"version\": 1", "\"version\": 2"), "version: version 2 of the format");
  refused(changed("\"version\": 1", "\"version\": true"), "version: expected a whole number");
  refused(changed("\"method\"", "\"methd\""), "the document: unknown field 'methd'; did you mean 'method'?");
  refused(changed("\"heads\": 4,", ""), "problem: field 'heads' is missing");
  refused(changed("\"heads\": 4", "\"heads\": \"4\""), "problem.heads: expected a whole number");
  refused(changed("\"heads\": 4", "\"heads\": 5"), "problem: kv-heads 2 does not divide heads 5");
  refused(changed("\"heads\": 4", "\"heads\": 4.0"), "problem.heads: expected a whole number");
  refused(changed("\"heads\": 4", "\"heads\": 99999999999999999999"), "problem.heads: expected a whole number");
  refused(changed("\"heads\": 4", "\"heads\": 1e999"), "a number that overflows");
  refused(changed("\"heads\": 4", "\"heads\": 4, \"heads\": 4"), "problem: field 'heads' is given twice");
  refused(changed("\"tokens\": 9", "\"tokens\": -9"), "problem.tokens: expected a whole number from 1");
  refused(changed("fp32", "fp31"), "problem.dtype: unknown type 'fp31'");
  refused(changed("\"q\": [0, 3]", "\"q\": [3, 0]"), "problem.mask.rectangles[0].q: begins after its end");
  refused(changed("\"q\": [0, 3]", "\"q\": [0, 3, 4]"), "problem.mask.rectangles[0].q: expected [begin, end]");
  refused(changed("\"q\": [3, 9], \"k\": [3, 9]", "\"q\": [2, 9], \"k\": [2, 9]"),
          "problem.mask: mask rectangles 0 and 1 overlap");
  refused(changed("\"stride\": 1", "\"stride\": 0"), "problem.layout[0][0].stride: expected");
  refused(changed("\"count\": 3", "\"count\": 4"), "problem.layout: ");
  refused(changed("\"key_layout\": null", "\"key_layout\": 3"), "problem.key_layout: expected a list");
  refused(changed("\"key_tokens\": 9", "\"key_tokens\": 8"), "problem.mask: ");
  refused(changed("\"op\": \"attend\"", "\"op\": \"atend\""), "unknown op 'atend'; did you mean 'attend'?");
  refused(changed("\"op\": \"input\", ", ""), "programs[0][0]: field 'op' is missing");
  refused(changed("\"step\": 0", "\"step\": -1"), "programs[0][0].step: expected");
  refused(changed("\"fields\": [\"q\"]", "\"fields\": []"), "programs[0][0].fields: expected at least one");
  refused(changed("\"fields\": [\"q\"]", "\"fields\": [\"q\", \"q\"]"), "programs[0][0].fields[1]: given twice");
  refused(changed("\"fields\": [\"q\"]", "\"fields\": [\"x\"]"), "programs[0][0].fields[0]: unknown field 'x'");
  refused(changed("\"form\": \"accumulating\"", "\"form\": \"sum\""), "programs[0][2].form: unknown form 'sum'");
  refused(changed("\"lane\": 0", "\"lane\": 8"), "programs[0][4].lane: expected a whole number from 0 to 7");
  refused(changed("\"peer\": 1", "\"peer\": -1"), "programs[0][4].send[0].peer: expected");
  refused(changed("\"tokens\": [[", "\"tokens\": [[-1, ", "\"send\""),
          "programs[0][4].send[0].parts[0].tokens[0]: expected [begin, end]");
  refused(changed("\"combine\": \"copy\"", "\"combine\": \"max\""), "parts[0].combine: unknown combine 'max'");
  refused(changed("[\n      {\"op\"", "[\n 1, {\"op\""), "programs[0][0]: an instruction is an object");
  refused(changed("\"programs\": [", "\"programs\": [[], "), "programs: 3 programs for the 2 ranks of the layout");
  refused(changed("\"programs\": [", "\"programs\": [{}, "), "programs[0]: a program is a list of instructions");
  refused(changed("\"programs\": [", "\"programs\": 1, \"x\": ["), "unknown field 'x'");
  refused(changed("\"lo\": -3", "\"lo\": " + std::string(20000, '[') + std::string(20000, ']')), "nested too deeply");
  refused(changed("fp32", std::string(1000, 'x')), "a text of 1000 bytes");
}

TEST(Json, ReadsWhatIsWellFormedButWrong) {
  for (const std::string& text : {
           changed("\"peer\": 1", "\"peer\": 77"),
           changed("\"value\": 1", "\"value\": 9223372036854775807", "\"send\""),
           changed("\"tokens\": [[", "\"tokens\": [[7, 2147483647], [", "\"send\""),
           changed("\"op\": \"drop\", \"step\": 1, \"value\": ", "\"op\": \"drop\", \"step\": 1, \"value\": 1"),
           changed("\"step\": 1", "\"step\": 5"),
           changed("\"tokens\": [[0, 3]", "\"tokens\": [[5, 6], [0, 0], [0, 3]", "\"programs\""),
       }) {
    const std::string once = to_json(schedule_from_json(text));
    EXPECT_EQ(to_json(schedule_from_json(once)), once);
  }
}

TEST(Json, UnknownValuesKeepApartFromKnownOnes) {
  // The first exchange sends a value that no instruction makes; it must not turn into one that exists.
  const Schedule read = schedule_from_json(changed("\"value\": 1", "\"value\": 1000", "\"send\""));
  SetPool pool;
  const auto program = read.open(0, pool);
  std::vector<ValueId> made, sent;
  for (Block block; program->next(block);) {
    for (const Instruction& i : block.instructions) {
      if (i.op == Op::create || i.op == Op::input) made.push_back(block.targets(i)[0].value);
      if (i.op == Op::exchange) sent.push_back(block.outgoing(i)[0].slice.value);
    }
  }
  EXPECT_EQ(std::count(made.begin(), made.end(), sent[0]), 0);
  EXPECT_EQ(std::count(made.begin(), made.end(), sent[1]), 1);
}

TEST(Json, ValuesKeepTheirNumbersUnlessTheyAreFarApart) {
  const auto first_values = [](const std::string& text) {
    const Schedule read = schedule_from_json(text);
    SetPool pool;
    const auto program = read.open(0, pool);
    std::vector<uint32_t> ids;
    Block block;
    program->next(block);
    for (const Instruction& i : block.instructions) {
      if (i.op == Op::create || i.op == Op::input) ids.push_back(static_cast<uint32_t>(block.targets(i)[0].value));
    }
    return ids;
  };
  EXPECT_EQ(first_values(to_json(small())), (std::vector<uint32_t>{0, 1, 2, 3}));
  EXPECT_EQ(first_values(changed("\"value\": 0", "\"value\": 900")), (std::vector<uint32_t>{900, 1, 2, 3}));
  for (uint32_t id : first_values(changed("\"value\": 0", "\"value\": 1000000000000"))) EXPECT_LT(id, 100u);
}

TEST(Json, UnorderedPeersBecomeOneMessageEach) {
  const std::string part = R"({"value": 1, "fields": ["k"], "tokens": [[0, 1]], "heads": [[0, 1]]})";
  const std::string messages = R"({"peer": 3, "parts": []}, {"peer": 2, "parts": [)" + part +
                               R"(]}, {"peer": 1, "parts": [)" + part + R"(]}, {"peer": 2, "parts": [)" + part + "]}, ";
  const Schedule read = schedule_from_json(changed("\"send\": [", "\"send\": [" + messages));
  const std::string text = to_json(read);
  const size_t one = text.find("\"peer\": 1"), two = text.find("\"peer\": 2"), received = text.find("\"receive\"");
  EXPECT_LT(one, two);
  EXPECT_LT(two, received);
  EXPECT_GT(text.find("\"peer\": 2", two + 1), received);
}

// Random damage to valid documents: each result is read, or refused in one line.
TEST(Json, SurvivesRandomDamage) {
  const std::string valid = to_json(small());
  const std::string pieces[] = {"{",
                                "}",
                                "[",
                                "]",
                                ",",
                                ":",
                                "\"",
                                "null",
                                "-1",
                                "0",
                                "1e9",
                                "4294967296",
                                "2147483647",
                                "\"q\"",
                                "\"op\"",
                                "[[0, 4]]",
                                "\xff",
                                "\\u0000",
                                "99999999999999999999",
                                "true",
                                "\\"};
  Random random(5);
  const auto below = [&](size_t end) { return static_cast<size_t>(random.uniform(static_cast<int64_t>(end))); };
  int read = 0, refused = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    std::string text = valid;
    const int changes = 1 + static_cast<int>(below(3));
    for (int c = 0; c < changes; ++c) {
      const size_t at = below(text.size());
      switch (below(5)) {
        case 0: text[at] = static_cast<char>(below(256)); break;
        case 1: text.erase(at, 1 + below(40)); break;
        case 2: text.insert(at, pieces[below(std::size(pieces))]); break;
        case 3: text.insert(at, text.substr(below(text.size()), below(80))); break;
        default: {  // another number
          const size_t digit = text.find_first_of("0123456789", at);
          if (digit != std::string::npos) text[digit] = static_cast<char>('0' + below(10));
        }
      }
      if (text.empty()) text = "x";
    }
    if (below(50) == 0) text.resize(below(text.size()));
    try {
      const Schedule schedule = schedule_from_json(text);
      const std::string once = to_json(schedule);
      ASSERT_EQ(to_json(schedule_from_json(once)), once);
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::format) << error.what();
      ASSERT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 100);
}

TEST(Print, OneLineEach) {
  const Schedule schedule = small();
  SetPool pool;
  ValueNumbers numbers;
  std::string text;
  const auto program = schedule.open(0, pool);
  for (Block block; program->next(block);) {
    for (const Instruction& i : block.instructions) {
      numbers.follow(block, i);
      text += print(schedule.problem(), pool, numbers, block, i) + "\n";
    }
  }
  EXPECT_EQ(text.substr(0, text.find("begin_backward")), R"(input q#0 0..3, 7..9
input kv#1 0..3, 7..9
create out+lse#2 0..3, 7..9, accumulating
create kv#3 3..7, whole
exchange lane 0: send 1 <- kv#1 0..3, 7..9; receive 1 -> kv#3 3..7
attend q#0 0..3, 7..9 to kv#1 0..3, 7..9 into out+lse#2 0..3, 7..9
create out+lse#4 0..3, 7..9, accumulating
attend q#0 0..3, 7..9 to kv#3 3..7 into out+lse#4 0..3, 7..9
merge out+lse#4 0..3, 7..9 into out+lse#2 0..3, 7..9
create out+lse#5 0..3, 7..9, whole
finish out+lse#2 0..3, 7..9 into out+lse#5 0..3, 7..9
result out+lse#5 0..3, 7..9
drop out+lse#5 0..3, 7..9
drop out+lse#2 0..3, 7..9
drop out+lse#4 0..3, 7..9
drop q#0 0..3, 7..9
drop kv#1 0..3, 7..9
)");
  EXPECT_NE(text.find("receive 1 -> dkv#12 0..3, 7..9 (add)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nwait for lane 1\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace weft
