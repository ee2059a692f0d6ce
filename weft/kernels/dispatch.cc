// Which CPU path runs: the registry of paths and the choice among them.
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <memory>
#include <string>

#include "weft/kernels/canonical/canonical.h"
#include "weft/kernels/cpu_kernels.h"
#include "weft/kernels/fused/fused.h"
#include "weft/kernels/matrix/drivers.h"

namespace weft::kernels {
namespace {

class CpuKernels final : public KernelSet {
 public:
  // `matrix` may be null.
  CpuKernels(std::string_view name, const TileOps& ops, const MatrixOps* matrix)
      : name_(name), ops_(ops), matrix_(matrix), canonical_(make_canonical(*this, &ops)), fused_(make_fused(ops)) {}

  std::string_view name() const override { return name_; }
  bool supports(DType element) const override { return element != DType::fp64; }

  void attend(const AttendArgs& args) const override {
    require(args.q.type);
    if (uses_matrix(args.q.type)) return matrix_attend(*matrix_, ops_, args);
    cpu_attend(ops_, args);
  }
  void attend_backward(const AttendBackwardArgs& args) const override {
    require(args.q.type);
    if (uses_matrix(args.q.type)) return matrix_attend_backward(*matrix_, ops_, args);
    cpu_attend_backward(ops_, args);
  }
  void prepare_backward(View delta, ConstView out, ConstView dout, ConstView dlse, Shape shape) const override {
    cpu_prepare_backward(ops_, delta, out, dout, dlse, shape);
  }
  void merge(View o, View lse, ConstView from_o, ConstView from_lse, Shape shape) const override {
    cpu_merge(ops_, o, lse, from_o, from_lse, shape);
  }
  void add(View to, ConstView from, Shape shape) const override { cpu_add(ops_, to, from, shape); }
  void convert(View to, ConstView from, Shape shape) const override { cpu_convert(ops_, to, from, shape); }
  const KernelSet* canonical() const override { return canonical_.get(); }
  const FusedKernels& fused() const override { return *fused_; }
  const BlockOps<float>& blocks() const override { return *ops_.blocks; }

 private:
  bool uses_matrix(DType element) const { return matrix_ && element == DType::bf16; }
  void require(DType element) const {
    if (supports(element)) return;
    throw Error(ErrorCode::unsupported, "kernels " + std::string(name()) + ": element type " +
                                            std::string(name_of(element)) +
                                            " is not supported; use fp32, bf16 or fp16, or the reference kernels");
  }

  const std::string_view name_;
  const TileOps& ops_;
  const MatrixOps* const matrix_;
  const std::unique_ptr<KernelSet> canonical_;
  const std::unique_ptr<FusedKernels> fused_;
};

#if defined(__x86_64__)
// clang 14's __builtin_cpu_supports does not know f16c. That the system saves wide registers is
// part of "avx2".
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  return has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvx512Bf16);
}

// Whether dot products of bf16 pairs are slower than fp32 products: on Intel's processors with them (measured on Sapphire
// Rapids). AMD's do twice as many.
bool has_slow_dots() {
  __builtin_cpu_init();
  return !__builtin_cpu_is("amd");
}

// AVX-512 with BF16 and AMX with BF16, and tile registers that the system lends this process: it must be asked.
bool has_amx() {
  static const bool granted = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    if (!(edx & kAmxBf16) || !(edx & kAmxTile)) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
}
#endif

struct Path {
  std::string_view name;
  bool (*available)();
  const TileOps& (*ops)();
  const MatrixOps& (*matrix)() = nullptr;
  bool (*only_by_name)() = [] { return false; };  // never the best
};

// Slowest first.
constexpr Path kPaths[] = {
#if defined(__x86_64__)
    {"emulated", has_avx2, wide_tile_ops, emulated_ops, [] { return true; }},
#endif
    {"portable", [] { return true; }, portable_tile_ops},
#if defined(__x86_64__)
    {"avx2", has_avx2, avx2_tile_ops},
    {"avx512", has_avx512, avx512_tile_ops},
    {"avx512_bf16", has_avx512_bf16, avx512_tile_ops, dot_ops, has_slow_dots},
    {"amx", has_amx, avx512_tile_ops, amx_ops},
#endif
};

// Asked once: in a virtual machine each question may cost microseconds, and every operation asks for its kernels.
bool is_available(const Path& path) {
  static const std::vector<bool> available = [] {
    std::vector<bool> all;
    for (const Path& each : kPaths) all.push_back(each.available());
    return all;
  }();
  return available[static_cast<size_t>(&path - kPaths)];
}

std::string joined(const std::vector<std::string_view>& names) {
  std::string text;
  for (std::string_view name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

// One object per path, made on first use.
const KernelSet& kernels_of(const Path& path) {
  static const std::vector<std::unique_ptr<KernelSet>> sets = [] {
    std::vector<std::unique_ptr<KernelSet>> all;
    for (const Path& each : kPaths) {
      all.push_back(std::make_unique<CpuKernels>(each.name, each.ops(), each.matrix ? &each.matrix() : nullptr));
    }
    return all;
  }();
  return *sets[&path - kPaths];
}

}  // namespace

std::vector<std::string_view> known_cpu_paths() {
  std::vector<std::string_view> names;
  for (const Path& path : kPaths) names.push_back(path.name);
  return names;
}

std::vector<std::string_view> available_cpu_paths() {
  std::vector<std::string_view> names;
  for (const bool by_name : {true, false}) {
    for (const Path& path : kPaths) {
      if (is_available(path) && path.only_by_name() == by_name) names.push_back(path.name);
    }
  }
  return names;
}

bool has_fast_bf16() {
  const std::string_view best = available_cpu_paths().back();
  for (const Path& path : kPaths) {
    if (path.name == best) return path.matrix != nullptr;
  }
  return false;
}

const KernelSet& cpu_kernels(std::string_view path) {
  for (const Path& known : kPaths) {
    if (known.name != path) continue;
    if (is_available(known)) return kernels_of(known);
    throw Error(ErrorCode::usage, "this processor lacks the instructions of kernel path '" + std::string(path) +
                                      "'; it has " + joined(available_cpu_paths()) +
                                      "; set WEFT_KERNEL to one of these, or leave it unset");
  }
  throw Error(ErrorCode::usage, "unknown kernel path '" + std::string(path) + "'; this processor has " +
                                    joined(available_cpu_paths()) +
                                    "; set WEFT_KERNEL to one of these or to reference, or leave it unset");
}

const KernelSet& cpu_kernels() {
  const char* forced = std::getenv("WEFT_KERNEL");
  if (forced && std::string_view(forced) == "reference") return reference_kernels();
  if (forced && *forced) return cpu_kernels(forced);
  static const KernelSet& best = cpu_kernels(available_cpu_paths().back());
  return best;
}

}  // namespace weft::kernels
