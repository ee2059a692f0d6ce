// A file's bytes as memory, read-only, for as long as anybody holds them.
//
//   auto file = MappedFile::open("model.safetensors");
//   file->bytes();   // std::span<const std::byte>, empty for an empty file
//
// Opening costs no reading: pages arrive when they are touched, so files larger than memory work.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace weft {

class MappedFile {
 public:
  // Throws Error(io) if `path` is not a readable regular file.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weft
