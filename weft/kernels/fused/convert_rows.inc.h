// Conversion of rows between fp32 and the 16-bit types.
#pragma once

namespace weft::kernels {
namespace {

static void to_float(const void* from, DType type, float* to, int64_t n) {
  int64_t i = 0;
  if (type == DType::fp32) {
    const float* source = (const float*)from;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(source + i));
    for (; i < n; ++i) to[i] = source[i];
    return;
  }
  const uint16_t* source = (const uint16_t*)from;
  if (type == DType::bf16) {
    for (; i + kLanes <= n; i += kLanes) store(to + i, load_bf16(source + i));
  } else {
    for (; i + kLanes <= n; i += kLanes) store(to + i, load_fp16(source + i));
  }
  if (i == n) return;
  uint16_t rest[kLanes] = {};
  float values[kLanes];
  for (int64_t j = 0; j < n - i; ++j) rest[j] = source[i + j];
  store(values, type == DType::bf16 ? load_bf16(rest) : load_fp16(rest));
  for (int64_t j = 0; j < n - i; ++j) to[i + j] = values[j];
}

static void from_float(const float* from, DType type, void* to, int64_t n) {
  int64_t i = 0;
  if (type == DType::fp32) {
    to_float(from, type, (float*)to, n);
    return;
  }
  uint16_t* target = (uint16_t*)to;
  if (type == DType::bf16) {
    for (; i + kLanes <= n; i += kLanes) store_bf16(target + i, load(from + i));
  } else {
    for (; i + kLanes <= n; i += kLanes) store_fp16(target + i, load(from + i));
  }
  if (i == n) return;
  float rest[kLanes] = {};
  uint16_t values[kLanes];
  for (int64_t j = 0; j < n - i; ++j) rest[j] = from[i + j];
  if (type == DType::bf16) {
    store_bf16(values, load(rest));
  } else {
    store_fp16(values, load(rest));
  }
  for (int64_t j = 0; j < n - i; ++j) target[i + j] = values[j];
}

}  // namespace
}  // namespace weft::kernels
