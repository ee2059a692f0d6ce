// Calls at which published packages return a wrong gradient or output without a word, repeated with Weft.
//
// Found by running them on CPU over Gloo, with 2 and 4 processes, against dense fp64 attention on gathered
// data, with a stand-in on torch's CPU flash attention for the CUDA flash kernels. CUDA was not run. Versions:
// ring-flash-attention 8996282, yunchang 0.6.4 (56118e0), ring-attention-pytorch 0.5.20 (373f75b), torch 2.13.0.
#include "tests/peer_faults.h"

#include "tests/planted_kernels.h"
#include "tests/verify_script.h"
#include "weft/base/random.h"

namespace weft::peer_faults {
namespace {

// The rings of ring-flash-attention (ring, zigzag, stripe) and of yunchang's LongContextAttention (basic, zigzag, strip,
// at ring degrees of 2 and 4) in our names; in the packed form as the varlen functions.
std::vector<ExecuteCase> their_rings() {
  std::vector<ExecuteCase> cases;
  for (const int ranks : {2, 4}) {
    for (const char* method : {"ring", "zigzag", "striped"}) cases.push_back(their_case(method, ranks));
    for (const char* layout : {"contiguous", "zigzag", "striped"}) {
      cases.push_back(their_case("usp", ranks, {{"ulysses", ranks == 2 ? "1" : "2"}}));
      cases.back().layout = layout;
    }
    for (const char* method : {"ring", "zigzag"}) {
      cases.push_back(their_case(method, ranks));
      cases.back().lengths = {64, 128, 32};
    }
  }
  return cases;
}

// ---- 1. ring_flash_attn_func(q, k, v, causal=True) in float32, and its zigzag_, stripe_ and _varlen_ kin; yunchang's
// LongContextAttention over the same rings. The sum of gradients is the block's own buffer in fp32 (`.to(float32)` does
// not copy), so the next block overwrites it, also while it is being sent: dq is wrong, dk and dv differ from run to run.
// Cannot show on CUDA, where flash_attn takes no fp32.

TEST(PeerFaults, Fp32GradientsOfRingsAreRight) {
  for (const ExecuteCase& c : their_rings()) expect_right(c);
}

TEST(PeerFaults, Fp32GradientsAreTheSameBitsOnEveryRun) {
  for (const ExecuteCase& c : their_rings()) {
    SCOPED_TRACE(c.describe());
    const Schedule schedule = c.schedule();
    const CheckTensors first = check_schedule(schedule, {.compare = false}).tensors;
    for (const uint64_t delays : {0, 1, 2, 3}) {  // random pauses, so that messages cross otherwise
      const CheckOptions again{.compare = false, .execute = {.delay_seed = delays}};
      EXPECT_EQ(different(first, check_schedule(schedule, again).tensors), "") << delays;
    }
  }
}

// Sums of gradients begin anew with every block.
class Overwriting final : public PassOnKernels {
 public:
  void attend_backward(const kernels::AttendBackwardArgs& args) const override {
    for (const kernels::Block& block : args.blocks) {
      for (int64_t row = 0; args.dq.data && row < block.band.q.size(); ++row) {
        for (int64_t head = 0; head < args.heads; ++head) {
          for (int64_t c = 0; c < args.dim; ++c) kernels::store(args.dq, block.out_row + row, head, c, 0);
        }
      }
    }
    base().attend_backward(args);
  }
};

TEST(PeerFaults, OverwrittenGradientsAreNoticed) {
  for (const ExecuteCase& c : their_rings()) {
    if (c.lengths.size() == 1) expect_noticed(c, Overwriting(), {"dq"});
  }
}

// One bit of one run.
TEST(PeerFaults, ADifferentRunIsNoticed) {
  const CheckTensors first = check_schedule(their_case("ring").schedule(), {.compare = false}).tensors;
  CheckTensors second = first;
  second.dk.bytes[5] ^= std::byte{1};
  EXPECT_EQ(different(first, second), "dk");
}

// ---- 2. The same functions, dense and packed, in any type: dq passes through `.to(torch.bfloat16)`, so fp16 loses three
// bits of it. Read in the source; 1 hides it on CPU.

ExecuteCase in_fp16(ExecuteCase c) {
  c.element = DType::fp16;
  return c;
}

// The smallest error that a gradient in fp16 can have: the exact one, rounded once.
double rounding_to_fp16(const std::vector<double>& exact) {
  HostTensor rounded(DType::fp16, static_cast<int64_t>(exact.size()), 1, 1);
  for (size_t i = 0; i < exact.size(); ++i) rounded.set(static_cast<int64_t>(i), exact[i]);
  return difference(rounded, exact).rms;
}

TEST(PeerFaults, Fp16GradientsKeepTheirBits) {
  for (const ExecuteCase& c : {their_case("ring"), their_case("zigzag", 4), their_case("striped", 4)}) {
    const CheckReport report = expect_right(in_fp16(c));
    const DenseAttention exact = exact_of(in_fp16(c).problem(), report.tensors);
    const double least = rounding_to_fp16(exact.dq);
    // delta comes of an out that was rounded too: hence not 1. bf16 has 8 times the rounding of fp16.
    EXPECT_LT(difference(report.tensors.dq, exact.dq).rms, 2 * least) << c.describe();
    CheckTensors planted = report.tensors;
    for (int64_t i = 0; i < planted.dq.elements(); ++i) {
      planted.dq.set(i, bf16_to_float(float_to_bf16(static_cast<float>(planted.dq.at(i)))));
    }
    EXPECT_GT(difference(planted.dq, exact.dq).rms, 4 * least) << "the planted rounding is not noticed";
  }
}

// ---- 3. lucidrains ring_flash_attn(q, k, v, ring_reduce_col=True), causal or not, striped or not, from 2 ranks on: what
// comes back as dk is dk + dv of the own shard, and as dv dk + dv of the neighbour's. Its own assert.py passes.

TEST(PeerFaults, KeyAndValueGradientsAreEachTheirOwn) {
  for (const char* mask : {"causal", "full"}) {
    for (const char* method : {"ring", "striped"}) {
      for (const int ranks : {2, 3, 4}) {
        ExecuteCase c = their_case(method, ranks);
        c.mask = mask;
        const CheckReport report = expect_right(c);
        if (ranks != 2 || c.method != "ring") continue;  // below: shards are halves
        const CheckTensors& t = report.tensors;
        const DenseAttention exact = exact_of(c.problem(), t);
        HostTensor dk = t.dk, dv = t.dv;
        for (int64_t i = 0; i < dk.elements(); ++i) {
          const int64_t neighbour = (i + dk.elements() / 2) % dk.elements();
          dk.set(i, t.dk.at(i) + t.dv.at(i));
          dv.set(i, t.dk.at(neighbour) + t.dv.at(neighbour));
        }
        EXPECT_GT(difference(dk, exact.dk).max, 1000 * report.errors[3].bound);
        EXPECT_GT(difference(dv, exact.dv).max, 1000 * report.errors[4].bound);
      }
    }
  }
}

// What a shard's owner gets as a result must be its own shard's: the verifier and the execution both say so.
TEST(PeerFaults, ANeighboursGradientsAreRefused) {
  const Schedule wrong = script(with_backward(tokens8(2)), [](int, Builder& b) {
    Training t(b);
    t.forward(), t.open(), t.compute_own(), t.compute_other();
    b.result(b.finish(t.dq));
    b.result(b.finish(t.part));
  });
  EXPECT_FALSE(verify(wrong).ok());
  EXPECT_THROW(check_schedule(wrong), Error);
}

// ---- 4. lucidrains zig_zag_attn(q, k, v), any shape: dk and dv lack the share of the other ranks, since backward of its
// all-gather slices and does not reduce. Its own assert_zig_zag.py passes.

TEST(PeerFaults, GatheredKeysGetTheGradientsOfAllRanks) {
  for (const char* method : {"all-gather", "llama3", "zigzag", "group-cast"}) {
    for (const int ranks : {2, 4}) {
      ExecuteCase c = their_case(method, ranks);
      c.layout = "zigzag";
      expect_right(c);
    }
  }
}

TEST(PeerFaults, MissingSharesAreNoticed) {
  const auto sliced = [](bool reduces) {
    return script(with_backward(tokens8(2)), [reduces](int, Builder& b) {
      Training t(b);
      t.forward(), t.open(), t.compute_own(), t.compute_other();
      if (reduces) t.send_home();
      t.close();
    });
  };
  EXPECT_TRUE(check_schedule(sliced(true)).ok);
  EXPECT_TRUE(verify(sliced(true)).ok());
  expect_noticed(check_schedule(sliced(false)), {"dk", "dv"});
  const Report report = verify(sliced(false));
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.problems[0].kind, "coverage") << findings(report);
}

}  // namespace
}  // namespace weft::peer_faults
