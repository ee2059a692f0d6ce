// Rows of partial attention results: two merged into one, and delta.
#pragma once

namespace weft::kernels {
namespace {

// log(1 + x) for x from 0 to 1, relative error 2e-7: the series of 2 atanh(x / (2 + x)).
WEFT_INLINE Vec log1p_of_share(Vec x) {
  const Vec s = x / (x + broadcast(2.0f)), square = s * s;
  Vec p = broadcast(2.0f / 13);
  p = fma(p, square, broadcast(2.0f / 11));
  p = fma(p, square, broadcast(2.0f / 9));
  p = fma(p, square, broadcast(2.0f / 7));
  p = fma(p, square, broadcast(2.0f / 5));
  p = fma(p, square, broadcast(2.0f / 3));
  p = fma(p, square, broadcast(2.0f));
  return p * s;
}

// What both parts weigh, and lse of the whole; for lanes where neither is empty.
struct Weights {
  Vec ours, theirs, total;
};
WEFT_INLINE Weights weights_of(Vec ours, Vec theirs) {
  const Vec difference = (Vec)((IVec)(ours - theirs) | broadcast_int((int32_t)0x80000000u));  // -|ours - theirs|
  const Vec small = exp2(difference * broadcast((float)kLog2E));
  const Vec larger_weight = broadcast(1.0f) / (broadcast(1.0f) + small), smaller_weight = small * larger_weight;
  const IVec theirs_larger = theirs > ours;
  return {select(theirs_larger, smaller_weight, larger_weight), select(theirs_larger, larger_weight, smaller_weight),
          select(theirs_larger, theirs, ours) + log1p_of_share(small)};
}

// o = a * o + b * from. With a = 0 the old content is not read: it may be anything.
template <typename From>
WEFT_INLINE void weigh_row(float* o, float a, const From* from, float b, int64_t n) {
  const Vec va = broadcast(a), vb = broadcast(b);
  if (a == 0) {
    for_lanes(n, [&](int64_t c, auto lanes) { write(o, c, lanes, vb * read(from, c, lanes)); });
  } else {
    for_lanes(
        n, [&](int64_t c, auto lanes) { write(o, c, lanes, fma(va, read(o, c, lanes), vb * read(from, c, lanes))); });
  }
}

template <typename From>
static void merge_rows(const MergePartials& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t first = 0; first < a.heads; first += kLanes) {
      const int64_t heads = smaller(kLanes, a.heads - first);
      float* lse = a.lse + row * a.lse_row + first * a.lse_head;
      const float* from_lse = a.from_lse + row * a.from_lse_row + first * a.from_lse_head;
      float ours[kLanes] = {}, theirs[kLanes] = {}, weight[kLanes], from_weight[kLanes], total[kLanes];
      for (int64_t h = 0; h < heads; ++h) {
        ours[h] = lse[h * a.lse_head];
        theirs[h] = from_lse[h * a.from_lse_head];
      }
      const Weights weights = weights_of(load(ours), load(theirs));
      store(weight, weights.ours);
      store(from_weight, weights.theirs);
      store(total, weights.total);
      for (int64_t h = 0; h < heads; ++h) {
        if (theirs[h] == -kInfinity) continue;
        const bool empty = ours[h] == -kInfinity;
        weigh_row(a.o + row * a.o_row + (first + h) * a.o_head, empty ? 0 : weight[h],
                  (const From*)a.from + row * a.from_row + (first + h) * a.from_head, empty ? 1 : from_weight[h],
                  a.columns);
        lse[h * a.lse_head] = empty ? theirs[h] : total[h];
      }
    }
  }
}

static void merge_partials(const MergePartials& args) {
  with_types(args.from_type, DType::fp32, [&](auto from, auto) { merge_rows<decltype(from)>(args); });
}

template <typename D>
static void delta_rows(const DeltaRows& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t head = 0; head < a.heads; ++head) {
      const float* o = a.out + row * a.out_row + head * a.out_head;
      const D* d = (const D*)a.dout + row * a.dout_row + head * a.dout_head;
      float sum = sum_lanes(a.columns, [&](int64_t c, auto lanes, Vec total) {
        return fma(read(o, c, lanes), read(d, c, lanes), total);
      });
      if (a.dlse) sum -= a.dlse[row * a.dlse_row + head * a.dlse_head];
      a.delta[row * a.delta_row + head * a.delta_head] = sum;
    }
  }
}

static void delta(const DeltaRows& args) {
  with_types(args.dout_type, DType::fp32, [&](auto d, auto) { delta_rows<decltype(d)>(args); });
}

}  // namespace
}  // namespace weft::kernels
