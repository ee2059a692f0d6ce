// A tensor in plain memory: [rows, heads, columns] of one element type. For checks, tests and files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "weft/base/dtype.h"

namespace weft {

struct HostTensor {
  DType type = DType::fp64;
  int64_t rows = 0, heads = 0, columns = 0;
  std::vector<std::byte> bytes;

  HostTensor() = default;
  HostTensor(DType t, int64_t r, int64_t h, int64_t c)
      : type(t), rows(r), heads(h), columns(c), bytes(static_cast<size_t>(r * h * c * size_of(t))) {}

  bool empty() const { return bytes.empty(); }
  int64_t elements() const { return rows * heads * columns; }
  void* data() { return bytes.data(); }
  const void* data() const { return bytes.data(); }
  // Element i in row-major order, as fp64; setting rounds to nearest even.
  double at(int64_t i) const;
  void set(int64_t i, double value);
  // The same numbers in fp64.
  std::vector<double> to_fp64() const;
};

}  // namespace weft
