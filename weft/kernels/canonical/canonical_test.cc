// Canonical kernels: right, and the same bits however a call is cut.
#include "weft/kernels/canonical/canonical.h"

#include <gtest/gtest.h>

#include "weft/base/test_level.h"
#include "weft/kernels/testing.h"

namespace weft::kernels {
namespace {

// A value of accumulators: rows x heads x columns of exact sums, without gaps; all identities.
struct Sums {
  Shape shape;
  DType type;
  std::vector<int64_t> words;

  Sums(Shape s, DType t)
      : shape(s), type(t), words(static_cast<size_t>(s.rows * s.heads * s.columns * size_of(t) / 8)) {}
  View view() { return {words.data(), type, shape.heads * shape.columns, shape.columns}; }
};

// All accumulators of a case.
struct Accumulators {
  Sums o, lse, dq, dk, dv;

  explicit Accumulators(const AttentionCase& c, DType sum, DType expsum)
      : o(c.o.shape, sum), lse(c.lse.shape, expsum), dq(c.dq.shape, sum), dk(c.dk.shape, sum), dv(c.dv.shape, sum) {}
  friend bool operator==(const Accumulators& a, const Accumulators& b) {
    return a.o.words == b.o.words && a.lse.words == b.lse.words && a.dq.words == b.dq.words &&
           a.dk.words == b.dk.words && a.dv.words == b.dv.words;
  }
};

Accumulators accumulators_of(const AttentionCase& c) {
  const bool wide = c.type == DType::fp64;
  return Accumulators(c, wide ? DType::sum3 : DType::sum2, wide ? DType::expsum3 : DType::expsum2);
}

// The blocks count positions as rows.
void set_positions(std::vector<Block>& blocks) {
  for (Block& block : blocks) {
    block.q_position = block.band.q.begin;
    block.k_position = block.band.k.begin;
  }
}

void run(const KernelSet& kernels, AttentionCase& c, int64_t tile, Accumulators& to) {
  AttendArgs forward = c.forward();
  forward.o = to.o.view(), forward.lse = to.lse.view(), forward.tile = tile;
  kernels.attend(forward);
  AttendBackwardArgs backward = c.backward();
  backward.dq = to.dq.view(), backward.dk = to.dk.view(), backward.dv = to.dv.view(), backward.tile = tile;
  kernels.attend_backward(backward);
}

// Cuts a block in pieces at multiples of the tile and of nothing else, in any order.
std::vector<Block> cut_at_tiles(Random& random, const Block& block, int64_t tile) {
  std::vector<Block> pieces;
  const auto cuts = [&](Range range) {
    std::vector<Range> parts;
    int64_t begin = range.begin;
    for (int64_t at = (range.begin / tile + 1) * tile; at < range.end; at += tile) {
      if (random.uniform(2)) continue;
      parts.push_back({begin, at});
      begin = at;
    }
    parts.push_back({begin, range.end});
    return parts;
  };
  for (const Range& q : cuts(block.band.q)) {
    for (const Range& k : cuts(block.band.k)) {
      Block piece = block;
      piece.band.q = q, piece.band.k = k;
      piece.out_row += q.begin - block.band.q.begin;
      piece.bundle_row += q.begin - block.band.q.begin;
      piece.kv_grad_row += k.begin - block.band.k.begin;
      pieces.push_back(piece);
    }
  }
  for (size_t i = pieces.size(); i > 1; --i) {
    std::swap(pieces[i - 1], pieces[static_cast<size_t>(random.uniform(static_cast<int64_t>(i)))]);
  }
  set_positions(pieces);
  return pieces;
}

std::vector<const KernelSet*> canonical_kernels() {
  std::vector<const KernelSet*> all = {reference_kernels().canonical()};
  for (const std::string_view path : available_cpu_paths()) {
    if (path == "emulated" && test_level() < 2) continue;  // slow
    all.push_back(cpu_kernels(path).canonical());
  }
  return all;
}

// Calls f(kernels, case, seed) for random cases that the kernels support.
template <typename F>
void for_each_case(int cases, F&& f) {
  for (const KernelSet* kernels : canonical_kernels()) {
    for (const DType type : {DType::fp64, DType::fp32, DType::bf16}) {
      if (!kernels->supports(type)) continue;
      for (int seed = 0; seed < cases; ++seed) {
        CaseOptions options{.type = type, .max_rows = 250};
        if (seed % 3 == 0) options.logit_deviation = 30;
        if (kernels->name() == "reference, canonical") options.max_rows = 90, options.dim = options.dim_v = 3;
        AttentionCase c = random_case(static_cast<uint64_t>(seed), options);
        c.lse.fill([](int64_t, int64_t, int64_t) { return kNoKeys; });
        make_bundle_consistent(c, static_cast<uint64_t>(seed));
        set_positions(c.blocks);
        SCOPED_TRACE(std::string(kernels->name()) + " seed " + std::to_string(seed) + " " + c.describe());
        f(*kernels, c, static_cast<uint64_t>(seed));
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

const int kCases = test_level() == 0 ? 12 : 48;

TEST(Canonical, CutsAndOrderLeaveNoTrace) {
  for_each_case(kCases, [](const KernelSet& kernels, AttentionCase& c, uint64_t seed) {
    Random random(seed, 9);
    const int64_t tile = seed % 2 ? 128 : 1 + random.uniform(40);
    Accumulators whole = accumulators_of(c);
    run(kernels, c, tile, whole);
    std::vector<Block> blocks;
    for (const Block& block : c.blocks) {
      for (const Block& piece : cut_at_tiles(random, block, tile)) blocks.push_back(piece);
    }
    for (size_t i = blocks.size(); i > 1; --i) {
      std::swap(blocks[i - 1], blocks[static_cast<size_t>(random.uniform(static_cast<int64_t>(i)))]);
    }
    // Each piece in one of two accumulators, which are then merged either way round.
    Accumulators a = accumulators_of(c), b = a;
    for (const Block& block : blocks) {
      AttentionCase one = c;
      one.blocks = {block};
      run(kernels, one, tile, random.uniform(2) ? a : b);
    }
    if (seed % 2) std::swap(a, b);
    kernels.merge(a.o.view(), a.lse.view(), b.o.view(), b.lse.view(), c.o.shape);
    kernels.add(a.dq.view(), b.dq.view(), c.dq.shape);
    kernels.add(a.dk.view(), b.dk.view(), c.dk.shape);
    kernels.add(a.dv.view(), b.dv.view(), c.dv.shape);
    EXPECT_TRUE(a.o.words == whole.o.words);
    EXPECT_TRUE(a.lse.words == whole.lse.words);
    EXPECT_TRUE(a.dq.words == whole.dq.words);
    EXPECT_TRUE(a.dk.words == whole.dk.words);
    EXPECT_TRUE(a.dv.words == whole.dv.words);
  });
}

// The test above can fail: cut inside a tile, some sums differ.
TEST(Canonical, CutsInsideTilesDoLeaveATrace) {
  bool differs = false;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    AttentionCase c = random_case(seed, {.type = DType::fp32});
    c.q_rows = c.k_rows = 64;
    for (Field* field : {&c.q, &c.k, &c.v, &c.dout}) {
      *field = Field({64, field->shape.heads, field->shape.columns}, DType::fp32);
      Random random(seed);
      field->randomize(random);
    }
    AttentionCase cut = c;
    c.blocks = {{.band = {.q = {0, 64}, .k = {0, 64}}}};
    cut.blocks = {{.band = {.q = {0, 64}, .k = {0, 40}}}, {.band = {.q = {0, 64}, .k = {40, 64}}, .kv_grad_row = 40}};
    set_positions(cut.blocks);
    Sums o({64, c.heads, c.dim_v}, DType::sum2), lse({64, c.heads, 1}, DType::expsum2), cut_o = o, cut_lse = lse;
    const auto attend = [](AttentionCase& one, Sums& to, Sums& to_lse) {
      AttendArgs args = one.forward();
      args.o = to.view(), args.lse = to_lse.view(), args.tile = 64;
      cpu_kernels().canonical()->attend(args);
    };
    attend(c, o, lse);
    attend(cut, cut_o, cut_lse);
    differs |= o.words != cut_o.words;
  }
  EXPECT_TRUE(differs);
}

// One head at a time, and each row in a call of its own.
TEST(Canonical, OtherRowsAndHeadsLeaveNoTrace) {
  for_each_case(kCases / 4, [](const KernelSet& kernels, AttentionCase& c, uint64_t) {
    Accumulators whole = accumulators_of(c), rows = whole;
    run(kernels, c, 128, whole);
    for (const Block& block : c.blocks) {
      for (int64_t q = block.band.q.begin; q < block.band.q.end; ++q) {
        Block row = block;
        row.band.q = {q, q + 1};
        row.out_row += q - block.band.q.begin;
        row.bundle_row += q - block.band.q.begin;
        row.q_position = q;
        AttentionCase one = c;
        one.blocks = {row};
        AttendArgs forward = one.forward();
        forward.o = rows.o.view(), forward.lse = rows.lse.view(), forward.tile = 128;
        kernels.attend(forward);
        AttendBackwardArgs backward = one.backward();
        backward.dq = rows.dq.view(), backward.dk = {}, backward.dv = {}, backward.tile = 128;
        kernels.attend_backward(backward);
      }
      for (int64_t k = block.band.k.begin; k < block.band.k.end; ++k) {
        Block column = block;
        column.band.k = {k, k + 1};
        column.kv_grad_row += k - block.band.k.begin;
        column.k_position = k;
        AttentionCase one = c;
        one.blocks = {column};
        AttendBackwardArgs backward = one.backward();
        backward.dq = {}, backward.dk = rows.dk.view(), backward.dv = rows.dv.view(), backward.tile = 128;
        kernels.attend_backward(backward);
      }
    }
    EXPECT_TRUE(rows == whole);
  });
}

// Against the reference kernels, which know nothing of tiles and sums.
TEST(Canonical, ValuesAreThoseOfAttention) {
  for_each_case(kCases, [](const KernelSet& kernels, AttentionCase& c, uint64_t seed) {
    Accumulators sums = accumulators_of(c);
    run(kernels, c, seed % 2 ? 128 : 16, sums);
    AttentionCase exact = c.in_fp64();
    for (Field* field : {&exact.o, &exact.dq, &exact.dk, &exact.dv}) {
      field->fill([](int64_t, int64_t, int64_t) { return 0.0; });
    }
    reference_kernels().attend(exact.forward());
    reference_kernels().attend_backward(exact.backward());
    Field out(c.o.shape, DType::fp64), lse(c.lse.shape, DType::fp64);
    Field dq(c.dq.shape, DType::fp64), dk(c.dk.shape, DType::fp64), dv(c.dv.shape, DType::fp64);
    kernels.finish(out.view(), lse.view(), sums.o.view(), sums.lse.view(), c.o.shape);
    kernels.convert(dq.view(), sums.dq.view(), c.dq.shape);
    kernels.convert(dk.view(), sums.dk.view(), c.dk.shape);
    kernels.convert(dv.view(), sums.dv.view(), c.dv.shape);
    const bool plain = kernels.name() == "reference, canonical";  // fp64 inside, two bins for lower types
    const double tight = c.type == DType::fp64 ? 1e-12 : plain ? 1e-9 : seed % 3 == 0 ? 2e-4 : 1e-5;
    EXPECT_LE(relative_error(out, exact.o), tight);
    EXPECT_LE(relative_error(lse, exact.lse), tight);
    EXPECT_LE(relative_error(dq, exact.dq), tight);
    EXPECT_LE(relative_error(dk, exact.dk), tight);
    EXPECT_LE(relative_error(dv, exact.dv), tight);
  });
}

// Infinities and NaN in the inputs reach the rows that see them, and no row that does not.
TEST(Canonical, WhatIsNotFiniteStaysWhereItIsSeen) {
  for_each_case(kCases / 4, [](const KernelSet& kernels, AttentionCase& c, uint64_t seed) {
    Random random(seed, 4);
    const auto spoil = [&](Field& field) {
      for (int n = 0; n < 2; ++n) {
        const double x = random.uniform(2) ? std::nan("") : random.uniform(2) ? kInfinity : -kInfinity;
        field.set(random.uniform(field.shape.rows), random.uniform(field.shape.heads),
                  random.uniform(field.shape.columns), x);
      }
    };
    spoil(c.q), spoil(c.k), spoil(c.v), spoil(c.dout);
    Accumulators whole = accumulators_of(c), a = whole;
    run(kernels, c, 32, whole);
    std::vector<Block> blocks;
    for (const Block& block : c.blocks) {
      for (const Block& piece : cut_at_tiles(random, block, 32)) blocks.push_back(piece);
    }
    for (const Block& block : blocks) {
      AttentionCase one = c;
      one.blocks = {block};
      run(kernels, one, 32, a);
    }
    EXPECT_TRUE(a.o.words == whole.o.words);
    EXPECT_TRUE(a.lse.words == whole.lse.words);
    EXPECT_TRUE(a.dq.words == whole.dq.words);
    EXPECT_TRUE(a.dk.words == whole.dk.words);
    EXPECT_TRUE(a.dv.words == whole.dv.words);
    Field out(c.o.shape, DType::fp64), lse(c.lse.shape, DType::fp64);
    kernels.finish(out.view(), lse.view(), a.o.view(), a.lse.view(), c.o.shape);
    for (const Block& block : c.blocks) {
      for (int64_t q = block.band.q.begin; q < block.band.q.end; ++q) {
        for (int64_t head = 0; head < c.heads; ++head) {
          bool sees = false;
          const auto spoiled = [&](const Field& field, int64_t row, int64_t h) {
            for (int64_t i = 0; i < field.shape.columns; ++i) sees |= !std::isfinite(field.at(row, h, i));
          };
          spoiled(c.q, q, head);
          for (const Block& other : c.blocks) {
            for (int64_t k = other.band.k.begin; k < other.band.k.end; ++k) {
              if (!other.band.contains(q, k)) continue;
              spoiled(c.k, k, c.kv_head[static_cast<size_t>(head)]);
              spoiled(c.v, k, c.kv_head[static_cast<size_t>(head)]);
            }
          }
          const int64_t row = block.out_row + q - block.band.q.begin;
          for (int64_t i = 0; !sees && i < c.dim_v; ++i) EXPECT_TRUE(std::isfinite(out.at(row, head, i)));
        }
      }
    }
  });
}

// Scores of any size: the largest wins, exactly, however far apart they are.
TEST(Canonical, AnyScale) {
  for (const KernelSet* kernels : canonical_kernels()) {
    for (const double scale : {1e-30, 1.0, 1e4, 1e9, 1e30}) {
      AttentionCase c;
      c.type = DType::fp32, c.q_rows = 2, c.k_rows = 4, c.dim = c.dim_v = 1, c.scale = scale, c.kv_head = {0};
      c.q = c.k = c.v = Field({4, 1, 1}, DType::fp32);
      for (int64_t i = 0; i < 4; ++i) {
        c.q.set(i, 0, 0, i == 0 ? 1 : -1), c.k.set(i, 0, 0, static_cast<double>(i) - 1),
            c.v.set(i, 0, 0, static_cast<double>(1 + i));
      }
      c.blocks = {{.band = {.q = {0, 2}, .k = {0, 4}}}};
      Sums o({2, 1, 1}, DType::sum2), lse({2, 1, 1}, DType::expsum2);
      AttendArgs args = c.forward();
      args.o = o.view(), args.lse = lse.view(), args.tile = 1;  // every key is a tile
      kernels->attend(args);
      Field out({2, 1, 1}, DType::fp64), log({2, 1, 1}, DType::fp64);
      kernels->finish(out.view(), log.view(), o.view(), lse.view(), {2, 1, 1});
      if (scale > 100) {
        EXPECT_NEAR(out.at(0, 0, 0), 4, 1e-8);
        EXPECT_NEAR(out.at(1, 0, 0), 1, 1e-8);
        EXPECT_NEAR(log.at(0, 0, 0) / scale, 2, 1e-6);
        EXPECT_NEAR(log.at(1, 0, 0) / scale, 1, 1e-6);
      } else if (scale < 1) {
        EXPECT_NEAR(out.at(0, 0, 0), 2.5, 1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
