// Every path with every element type, head dims from 16 to 256 in steps of 8, masks, and sizes around the edges of
// vectors, panels, strips and tiles, in memory that ends at pages nobody may touch. Against the reference kernels in fp64
// on the same inputs. The bound is for all types that of fp32 sums, stricter than "twice what plain attention in the element type
// would be off by": 16-bit inputs are exact in fp32, and results leave a kernel in fp32. (Matrix units: see bound_of.)
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "weft/base/test_level.h"
#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

constexpr int64_t kSizes[] = {1, 7, 8, 9, 63, 64, 65, 127, 1000};

// A copy of a field's memory between two pages that cannot be touched, right behind the first or before the second;
// what a kernel wrote goes back into the field at the end.
class Guarded {
 public:
  Guarded(Field& field, bool at_end) : field_(field) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), size = field.bytes.size();
    const size_t inside = (size + page - 1) / page * page;
    length_ = inside + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, inside, PROT_READ | PROT_WRITE) != 0) std::abort();
    data_ = base_ + page + (at_end ? inside - size : 0);
    std::memcpy(data_, field.bytes.data(), size);
  }
  ~Guarded() {
    std::memcpy(field_.bytes.data(), data_, field_.bytes.size());
    munmap(base_, length_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  template <typename AnyView>
  void put_into(AnyView& view) const {
    view.data = data_;
  }

 private:
  Field& field_;
  char* base_;
  char* data_;
  size_t length_;
};

void attend_guarded(const KernelSet& kernels, AttentionCase& c, bool at_end) {
  AttendArgs args = c.forward();
  Guarded q(c.q, at_end), k(c.k, at_end), v(c.v, at_end), o(c.o, at_end), lse(c.lse, at_end);
  q.put_into(args.q), k.put_into(args.k), v.put_into(args.v), o.put_into(args.o), lse.put_into(args.lse);
  kernels.attend(args);
}

void attend_backward_guarded(const KernelSet& kernels, AttentionCase& c, bool at_end) {
  AttendBackwardArgs args = c.backward();
  Guarded q(c.q, at_end), k(c.k, at_end), v(c.v, at_end), dout(c.dout, at_end), lse(c.bundle_lse, at_end);
  Guarded delta(c.delta, at_end), dq(c.dq, at_end), dk(c.dk, at_end), dv(c.dv, at_end);
  q.put_into(args.q), k.put_into(args.k), v.put_into(args.v), dout.put_into(args.dout), lse.put_into(args.lse);
  delta.put_into(args.delta), dq.put_into(args.dq), dk.put_into(args.dk), dv.put_into(args.dv);
  kernels.attend_backward(args);
}

enum class Mask { full, causal, window, documents };

std::vector<Block> blocks_of(Mask mask, int64_t q_rows, int64_t k_rows) {
  const auto block = [](Range q, Range k, int64_t lo, int64_t hi) {
    return Block{.band = {.q = q, .k = k, .lo = lo, .hi = hi},
                 .out_row = q.begin,
                 .bundle_row = q.begin,
                 .kv_grad_row = k.begin};
  };
  const Range q{0, q_rows}, k{0, k_rows};
  switch (mask) {
    case Mask::full: return {block(q, k, kUnboundedBelow, kUnboundedAbove)};
    case Mask::causal: return {block(q, k, kUnboundedBelow, k_rows - q_rows)};
    case Mask::window: return {block(q, k, k_rows - q_rows - 20, k_rows - q_rows)};
    case Mask::documents: break;
  }
  std::vector<Block> all;  // of growing length, each query with the keys of as many rows, causally
  for (int64_t at = 0, length = 1; at < std::min(q_rows, k_rows); at += length, length = length * 2 + 1) {
    const Range range = intersect({at, at + length}, {0, std::min(q_rows, k_rows)});
    all.push_back(block(range, range, kUnboundedBelow, 0));
  }
  return all;
}

AttentionCase sweep_case(int64_t q_rows, int64_t k_rows, int64_t dim, DType type, Mask mask) {
  AttentionCase c;
  Random random(static_cast<uint64_t>(q_rows * 1009 + k_rows), static_cast<uint64_t>(dim));
  c.type = type;
  c.q_rows = q_rows, c.k_rows = k_rows;
  c.heads = q_rows * k_rows > 10000 ? 1 : 2;
  c.kv_head.assign(static_cast<size_t>(c.heads), 0);
  c.dim = c.dim_v = dim;
  c.scale = 1 / std::sqrt(static_cast<double>(dim));
  c.blocks = blocks_of(mask, q_rows, k_rows);
  const auto make = [&](int64_t rows, int64_t heads, int64_t columns, DType field_type) {
    Field field({rows, heads, columns}, field_type);
    field.randomize(random);
    return field;
  };
  c.q = make(q_rows, c.heads, dim, type), c.dout = make(q_rows, c.heads, dim, type);
  c.k = make(k_rows, 1, dim, type), c.v = make(k_rows, 1, dim, type);
  c.o = make(q_rows, c.heads, dim, DType::fp32), c.dq = make(q_rows, c.heads, dim, DType::fp32);
  c.lse = make(q_rows, c.heads, 1, DType::fp32), c.delta = make(q_rows, c.heads, 1, DType::fp32);
  c.bundle_lse = c.lse;
  c.dk = make(k_rows, 1, dim, DType::fp32), c.dv = make(k_rows, 1, dim, DType::fp32);
  c.lse.fill([](int64_t row, int64_t, int64_t) { return row % 3 ? kNoKeys : 0.5; });
  return c;
}

class AttentionSweep : public testing::TestWithParam<std::string_view> {
 protected:
  const KernelSet& kernels() const { return cpu_kernels(GetParam()); }

  void check(const AttentionCase& start, bool at_end) const {
    AttentionCase actual = start, expected = start.in_fp64();
    attend_guarded(kernels(), actual, at_end);
    reference_kernels().attend(expected.forward());
    EXPECT_LT(relative_error(actual.o, expected.o), bound_of(kernels(), start.type)) << "o: " << start.describe();
    EXPECT_LT(relative_error(actual.lse, expected.lse), kBound) << "lse: " << start.describe();
  }
  void check_backward(AttentionCase start, bool at_end) const {
    make_bundle_consistent(start, 7);
    const double bound = gradient_bound_of(kernels(), start.type);
    AttentionCase actual = start, expected = start.in_fp64();
    attend_backward_guarded(kernels(), actual, at_end);
    reference_kernels().attend_backward(expected.backward());
    EXPECT_LT(relative_error(actual.dq, expected.dq), bound) << "dq: " << start.describe();
    EXPECT_LT(relative_error(actual.dk, expected.dk), bound) << "dk: " << start.describe();
    EXPECT_LT(relative_error(actual.dv, expected.dv), bound) << "dv: " << start.describe();
  }
};
INSTANTIATE_TEST_SUITE_P(All, AttentionSweep, testing::ValuesIn(available_cpu_paths()),
                         [](const auto& param_info) { return std::string(param_info.param); });

// All pairs of sizes, with the other choices taken in turn; at level 2 several rounds, so that they meet otherwise too.
TEST_P(AttentionSweep, SizesDimsTypesAndMasks) {
  int turn = 0;
  for (int round = 0; round < (test_level() >= 2 ? 8 : 1); ++round) {
    for (int64_t q_rows : kSizes) {
      for (int64_t k_rows : kSizes) {
        ++turn;
        if (test_level() < 2 && q_rows * k_rows > 130 * 130 && turn % 3 != 0) continue;
        if (q_rows * k_rows > 130 * 1000 || (test_level() == 0 && q_rows * k_rows > 130 * 130)) continue;
        const int64_t dims = q_rows * k_rows > 4000 ? 4 : 31;  // the reference is slow
        const int64_t dim = 16 + 8 * (turn * 7 % dims);
        constexpr DType kTypes[] = {DType::fp32, DType::bf16, DType::fp16};
        const DType type = kTypes[(turn + round) % 3];
        const AttentionCase c = sweep_case(q_rows, k_rows, dim, type, static_cast<Mask>((turn / 3 + round) % 4));
        check(c, turn % 2 == 0);
        check_backward(c, turn % 2 == 1);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(AttentionSweep, EveryHeadDimWithEveryType) {
  int turn = 0;
  for (int64_t dim = 16; dim <= 256; dim += 8) {
    for (DType type : {DType::fp32, DType::bf16, DType::fp16}) {
      ++turn;
      const AttentionCase c = sweep_case(18, 20, dim, type, static_cast<Mask>(turn % 4));
      check(c, turn % 2 == 0);
      check_backward(c, turn % 2 == 1);
      check(sweep_case(3, 37, dim, type, static_cast<Mask>(turn % 4)), turn % 2 == 0);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace weft::kernels
