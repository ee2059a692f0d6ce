#include "weft/kernels/checks.h"

namespace weft::kernels {
namespace {

template <typename Args>
void check_common(const Args& args) {
  WEFT_CHECK(args.q.type == args.k.type && args.k.type == args.v.type);
  WEFT_CHECK(args.heads >= 0 && static_cast<size_t>(args.heads) == args.kv_head.size());
  WEFT_CHECK(args.dim >= 1 && args.dim_v >= 1);
  for (int32_t kv : args.kv_head) WEFT_CHECK(kv >= 0);
}

}  // namespace

void check(const AttendArgs& args) {
  check_common(args);
  const DType accumulator = accumulator_of(args.q.type);
  WEFT_CHECK(args.o.type == accumulator && args.lse.type == accumulator);
}

void check(const AttendBackwardArgs& args) {
  check_common(args);
  const DType accumulator = accumulator_of(args.q.type);
  WEFT_CHECK(args.dout.type == args.q.type);
  WEFT_CHECK(args.lse.type == accumulator && args.delta.type == accumulator);
  for (const View& gradient : {args.dq, args.dk, args.dv}) {
    WEFT_CHECK(gradient.data == nullptr || gradient.type == accumulator);
  }
}

std::vector<HeadGroup> group_heads(std::span<const int32_t> kv_head) {
  std::vector<HeadGroup> groups;
  for (size_t head = 0; head < kv_head.size(); ++head) {
    HeadGroup* group = nullptr;
    for (HeadGroup& known : groups) {
      if (known.kv_head == kv_head[head]) group = &known;
    }
    if (!group) group = &groups.emplace_back(HeadGroup{kv_head[head], {}});
    group->heads.push_back(static_cast<int32_t>(head));
  }
  return groups;
}

}  // namespace weft::kernels
