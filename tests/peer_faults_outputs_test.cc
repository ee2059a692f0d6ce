// Calls at which published packages return a wrong output without a word, repeated with Weft. How they were found, and
// which versions: tests/peer_faults_test.cc, docs/what-we-check.md.
#include "tests/peer_faults.h"
#include "tests/planted_kernels.h"
#include "tests/verify_script.h"

namespace weft::peer_faults {
namespace {

// ---- 5. ring-attention-pytorch 0.5.20, all functions with fewer kv heads than heads: query head h reads kv head h mod
// kv_heads, where flash_attn, SDPA and Hugging Face models read h // (heads / kv_heads). Consistent with itself, so wrong
// only with weights from elsewhere.

class HeadsModulo final : public PassOnKernels {
 public:
  explicit HeadsModulo(int64_t kv_heads) : kv_heads_(kv_heads) {}
  void attend(const kernels::AttendArgs& args) const override { base().attend(changed(args)); }
  void attend_backward(const kernels::AttendBackwardArgs& args) const override {
    base().attend_backward(changed(args));
  }

 private:
  template <typename Args>
  Args changed(Args args) const {
    thread_local std::vector<int32_t> heads;  // one rank, one thread
    heads.clear();
    for (int64_t h = 0; h < args.heads; ++h) heads.push_back(static_cast<int32_t>(h % kv_heads_));
    args.kv_head = heads;
    return args;
  }
  int64_t kv_heads_;
};

// Dense attention, written out once more for one head, with the order of heads as an argument.
double out_of(const CheckTensors& t, int64_t query, int64_t head, int64_t kv_head, int64_t column) {
  const auto at = [](const HostTensor& x, int64_t row, int64_t h, int64_t c) {
    return x.at((row * x.heads + h) * x.columns + c);
  };
  double sum = 0, result = 0;
  for (int64_t key = 0; key <= query; ++key) {
    double score = 0;
    for (int64_t c = 0; c < t.q.columns; ++c) score += at(t.q, query, head, c) * at(t.k, key, kv_head, c);
    const double weight = std::exp(score / std::sqrt(static_cast<double>(t.q.columns)));
    sum += weight;
    result += weight * at(t.v, key, kv_head, column);
  }
  return result / sum;
}

TEST(PeerFaults, QueryHeadsReadConsecutiveKvHeads) {
  for (const Method* method : all_methods()) {
    ExecuteCase c = their_case(std::string(method->name));
    c.lengths = {64}, c.heads = 6, c.kv_heads = 2;
    const CheckTensors t = expect_right(c).tensors;
    for (const int64_t head : {1, 2, 3, 4}) {  // head mod 2 differs from head / 3
      const int64_t i = (60 * c.heads + head) * c.dim_v;
      EXPECT_NEAR(t.out.at(i), out_of(t, 60, head, head / 3, 0), 1e-5) << method->name << " head " << head;
      if (head % 2 != head / 3) {
        EXPECT_GT(std::abs(t.out.at(i) - out_of(t, 60, head, head % 2, 0)), 1e-3) << "head " << head;
      }
    }
  }
}

TEST(PeerFaults, HeadsInAnotherOrderAreNoticed) {
  for (const char* method : {"ring", "zigzag", "all-gather"}) {
    ExecuteCase c = their_case(method);
    c.heads = 6, c.kv_heads = 2;
    expect_noticed(c, HeadsModulo(2), {"out", "lse", "dq", "dk", "dv"});
  }
}

// ---- 6. ring-attention-pytorch 0.5.20, ring_flash_attn(q, k, v, causal=True, bucket_size=48) where the local length is
// not a multiple of bucket_size (256 tokens on 2 ranks and 48; 250 and 32): wrong output. Its module asks, its exported
// function does not.

// Lengths around every size of tile and vector that kernels may have.
TEST(PeerFaults, LocalLengthsNeedNotBeMultiplesOfATile) {
  std::vector<int64_t> lengths = {250, 256};  // theirs
  for (const int64_t local : {1, 7, 15, 16, 17, 31, 33, 47, 48, 49, 63, 65, 95, 97, 127, 129}) {
    lengths.push_back(2 * local);
    lengths.push_back(2 * local + 1);  // and one rank has one more
  }
  for (const std::string_view path : kernels::available_cpu_paths()) {
    for (const char* method : {"ring", "zigzag", "striped"}) {
      for (const int64_t tokens : lengths) {
        if (test_level() == 0 && tokens % 5 != 0) continue;
        ExecuteCase c = their_case(method);
        c.lengths = {tokens}, c.heads = c.kv_heads = 1;
        SCOPED_TRACE(path);
        expect_right(c, {.kernels = &kernels::cpu_kernels(path)});
      }
    }
  }
}

// The last, partial bucket of the keys of a shard is passed over.
TEST(PeerFaults, LostPartialTilesAreNoticed) {
  const ChangedBlocks whole_tiles([](kernels::Block& block) { block.band.k.end -= block.band.k.end % 48; },
                                  kernels::cpu_kernels());
  ExecuteCase c = their_case("ring");
  c.lengths = {250};
  expect_noticed(c, whole_tiles, {"out", "lse", "dq", "dk", "dv"});
}

// ---- 7. yunchang 0.6.4, LongContextAttention(ring_impl_type="basic", attn_type=AttnType.TORCH_MATH), ring degree above
// 1, on plain CPU: the back end gives zeros for the log-sum-exp, so blocks are averaged. Its backward is not implemented.

class AveragedBlocks final : public PassOnKernels {
 public:
  void attend(const kernels::AttendArgs& args) const override {
    int64_t rows = 0;
    for (const kernels::Block& block : args.blocks) rows = std::max(rows, block.out_row + block.band.q.size());
    std::vector<float> out(static_cast<size_t>(rows * args.heads * args.dim_v));
    std::vector<float> lse(static_cast<size_t>(rows * args.heads), -INFINITY);
    kernels::AttendArgs block = args;
    block.o = {out.data(), DType::fp32, args.heads * args.dim_v, args.dim_v};
    block.lse = {lse.data(), DType::fp32, args.heads, 1};
    base().attend(block);
    for (float& x : lse) x = std::isinf(x) ? x : 0;
    base().merge(args.o, args.lse, block.o, block.lse, {rows, args.heads, args.dim_v});
  }
};

TEST(PeerFaults, BlocksAreWeightedByTheirSums) {
  for (const char* mask : {"causal", "full"}) {
    for (const int ranks : {2, 4}) {
      for (ExecuteCase c : {their_case("ring", ranks), their_case("usp", ranks, {{"ulysses", "1"}}),
                            their_case("usp", ranks, {{"ulysses", ranks == 2 ? "1" : "2"}})}) {
        c.layout = "contiguous", c.mask = mask;
        expect_right(c);
        expect_noticed(c, AveragedBlocks(), {"out", "lse"});
      }
    }
  }
}

// ---- 8. yunchang 0.6.4, UlyssesAttention(group, attn_type=AttnType.TORCH_MATH) and TORCH_FLASH; by the source also
// TORCH_EFFICIENT and TORCH_CUDNN: its local attention is the ring function without a group, so after the all-to-all a
// ring over the whole world mixes different heads. On plain CPU the op is missing; seen with one registered.

TEST(PeerFaults, HeadExchangeIsNotFollowedByARing) {
  for (const char* mask : {"causal", "full"}) {
    for (const int ranks : {2, 4}) {
      ExecuteCase c = their_case("ulysses", ranks);
      c.mask = mask;
      expect_right(c);
    }
  }
}

// As there: rank r has query head r of all tokens, and then goes on to the keys of the other rank's head.
TEST(PeerFaults, AttendingToAnotherHeadIsRefused) {
  const auto exchange = [](bool mixes) {
    Problem problem = tokens8(2);
    problem.kv_heads = 2;
    return script(problem, [mixes](int rank, Builder& b) {
      const auto head = [&](int r) { return b.set(Range{r, r + 1}); };
      Value q = b.input(Field::q), kv = b.input(kKv);
      const Set all = b.queries_of(0) | b.queries_of(1), mine = head(rank), other = head(1 - rank);
      Value heads_q = b.whole(Field::q, all, mine), heads_kv = b.whole(kKv, all, mine);
      const Set own = q.tokens(), theirs = b.queries_of(1 - rank);
      Exchange there = b.exchange();
      there.send(1 - rank, q.at(own, other)).receive(1 - rank, heads_q[theirs]);
      there.send(1 - rank, kv.at(own, other)).receive(1 - rank, heads_kv[theirs]);
      there.send(rank, q.at(own, mine)).receive(rank, heads_q[own]);
      there.send(rank, kv.at(own, mine)).receive(rank, heads_kv[own]);
      there.issue();
      Value acc = b.partial(heads_q);
      b.attend(heads_q, heads_kv, acc);
      if (mixes) {
        Value strange = b.whole(kKv, all, other);
        b.exchange().send(1 - rank, heads_kv).receive(1 - rank, strange).issue();
        b.attend(heads_q, strange, acc);
      }
      Value done = b.finish(acc), home = b.whole(kOutLse, own, b.all_heads());
      Exchange back = b.exchange();
      back.send(1 - rank, done[theirs]).receive(1 - rank, home.at(own, other));
      back.send(rank, done[own]).receive(rank, home.at(own, mine));
      back.issue();
      b.result(home);
    });
  };
  EXPECT_TRUE(check_schedule(exchange(false)).ok);
  proved(exchange(false));
  EXPECT_FALSE(verify(exchange(true)).ok());
  EXPECT_THROW(check_schedule(exchange(true)), Error);
}

// ---- 9. yunchang 0.6.4, LongContextAttention(attn_type=AttnType.FA3)(q, k, v, causal=True): the calls of that kernel
// pass causal=False whatever was asked. Seen with a stand-in that honours the keyword it is given; FA3 itself was not run.

TEST(PeerFaults, EveryKernelPathHonoursCausal) {
  for (const std::string_view path : kernels::available_cpu_paths()) {
    const kernels::KernelSet& kernels = kernels::cpu_kernels(path);
    const ChangedBlocks not_causal([](kernels::Block& block) { block.band.hi = kUnboundedAbove; }, kernels);
    for (const int ranks : {2, 4}) {
      for (const char* degree : {"1", "2"}) {
        const ExecuteCase c = their_case("usp", ranks, {{"ulysses", degree}});
        SCOPED_TRACE(path);
        expect_right(c, {.kernels = &kernels});
        expect_noticed(c, not_causal, {"out", "lse", "dq", "dk", "dv"});
      }
    }
  }
}

}  // namespace
}  // namespace weft::peer_faults
