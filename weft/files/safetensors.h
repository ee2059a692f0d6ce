// Reads and writes safetensors files: named tensors, as Hugging Face stores them.
//
//   SafetensorsFile file("model.safetensors");
//   if (const StoredTensor* t = file.find("lm_head.weight")) use(t->shape, file.data(*t));
//
//   write_safetensors("out.safetensors", {{"q", StoredType::f32, {tokens, heads, dim}, q.data()}});
//
// Format: 8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the
// data, row-major and little-endian. A reader must assume that the file is hostile: the header is
// checked completely when it is opened (size, overlaps, holes, duplicate keys, overflow), and
// whatever is wrong is one Error(format) that names the file. No torch here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weft/base/dtype.h"
#include "weft/base/range.h"
#include "weft/files/mapped_file.h"

namespace weft {

// Element types a file can hold: more than those weft computes with.
enum class StoredType : uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
};

int64_t size_of(StoredType type);
// The name in files: "F32", "BF16", "I64", "BOOL", ...
std::string_view name_of(StoredType type);
StoredType stored_type_of(DType type);

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;  // empty for a single number
  Range bytes;                 // within the data that follows the header
  int64_t elements() const { return bytes.size() / size_of(type); }
};

class SafetensorsFile {
 public:
  // Throws Error(io) if it cannot be read, Error(format) if it is not a correct safetensors file.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return path_; }
  // In the order of their data.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  // nullptr if there is none of that name.
  const StoredTensor* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // The tensor's bytes in the mapped file: not copied, and possibly not aligned for their type.
  std::span<const std::byte> data(const StoredTensor& tensor) const;
  // Keeps the bytes valid when this object is gone.
  std::shared_ptr<const void> owner() const { return file_; }

 private:
  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  int64_t data_begin_ = 0;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// A tensor to be written; `data` points to its elements, row-major.
struct TensorToWrite {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

// Writes all tensors (each aligned to its element) through an AtomicFile: either the new file is
// there or the old one. Throws Error(io), and Error(usage) for a name given twice.
void write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace weft
