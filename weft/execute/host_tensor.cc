#include "weft/execute/host_tensor.h"

#include <cstring>

namespace weft {
namespace {

template <typename T>
T read(const std::byte* bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void write(std::byte* bytes, int64_t i, T value) {
  std::memcpy(bytes + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

}  // namespace

double HostTensor::at(int64_t i) const {
  switch (type) {
    case DType::fp64: return read<double>(bytes.data(), i);
    case DType::fp32: return read<float>(bytes.data(), i);
    case DType::bf16: return bf16_to_float(read<uint16_t>(bytes.data(), i));
    case DType::fp16: return fp16_to_float(read<uint16_t>(bytes.data(), i));
    default: break;  // not an element type
  }
  return 0;
}

void HostTensor::set(int64_t i, double value) {
  const float narrow = static_cast<float>(value);
  switch (type) {
    case DType::fp64: return write(bytes.data(), i, value);
    case DType::fp32: return write(bytes.data(), i, narrow);
    case DType::bf16: return write(bytes.data(), i, float_to_bf16(narrow));
    case DType::fp16: return write(bytes.data(), i, float_to_fp16(narrow));
    default: break;
  }
}

std::vector<double> HostTensor::to_fp64() const {
  std::vector<double> values(static_cast<size_t>(elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = at(static_cast<int64_t>(i));
  return values;
}

}  // namespace weft
