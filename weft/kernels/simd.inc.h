// What the SIMD types of all paths share. The compilers' vector extension gives arithmetic,
// comparison and shifts for any width; a path adds only what needs its instructions: its lane
// count, fma, max and the fp16 conversions.
//
// Files named *.inc.h are compiled once per path inside anonymous namespaces, so nothing in them
// can be merged by the linker with code for another processor. For the same reason they use nothing
// of the standard library.
#pragma once

#define WEFT_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define WEFT_UNROLL _Pragma("unroll")
#else
#define WEFT_UNROLL _Pragma("GCC unroll 64")
#endif

namespace weft::kernels {
namespace {

// Lane by lane: mask (all ones or zero, as comparisons give) ? a : b.
template <typename Mask, typename V>
WEFT_INLINE V select(Mask mask, V a, V b) {
  return (V)((mask & (Mask)a) | (~mask & (Mask)b));
}

}  // namespace
}  // namespace weft::kernels
