#include "weft/files/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/files/atomic_file.h"

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

namespace weft {

namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // as in Hugging Face's reader

struct TypeRow {
  StoredType type;
  std::string_view name;
  int64_t size;
};

constexpr std::array<TypeRow, 15> kTypes = {{{StoredType::f64, "F64", 8},
                                             {StoredType::f32, "F32", 4},
                                             {StoredType::f16, "F16", 2},
                                             {StoredType::bf16, "BF16", 2},
                                             {StoredType::f8_e4m3, "F8_E4M3", 1},
                                             {StoredType::f8_e5m2, "F8_E5M2", 1},
                                             {StoredType::i64, "I64", 8},
                                             {StoredType::i32, "I32", 4},
                                             {StoredType::i16, "I16", 2},
                                             {StoredType::i8, "I8", 1},
                                             {StoredType::u64, "U64", 8},
                                             {StoredType::u32, "U32", 4},
                                             {StoredType::u16, "U16", 2},
                                             {StoredType::u8, "U8", 1},
                                             {StoredType::boolean, "BOOL", 1}}};

const TypeRow& row_of(StoredType type) { return kTypes[static_cast<size_t>(type)]; }

// Reads the header event by event: a document tree would hide duplicate keys, and cost many times
// the header's memory.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::string problem;  // set when a callback returns false

  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("a truth value"); }
  bool number_integer(number_integer_t) override { return refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return refuse("a fraction"); }
  bool binary(binary_t&) override { return refuse("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list_) return refuse("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return refuse("a number beyond 63 bits");
    }
    list_.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (in_metadata_) {
      if (!metadata.emplace(key_, value).second) return wrong("key " + in_quotes(key_) + " is there twice");
      return true;
    }
    if (depth_ != 2 || in_list_ || key_ != "dtype") return refuse("a text");
    for (const TypeRow& row : kTypes) {
      if (row.name == value) {
        type_ = row.type;
        return true;
      }
    }
    return wrong("tensor " + in_quotes(name_) + " has dtype " + in_quotes(value) +
                 ", which is none of F64, F32, F16, BF16, F8_*, I*, U*, BOOL");
  }

  bool start_object(std::size_t) override {
    if (in_list_ || depth_ >= 2) return refuse("an object");
    if (++depth_ == 2) {
      in_metadata_ = name_ == "__metadata__";
      type_.reset();
      shape_.reset();
      offsets_.reset();
    }
    return true;
  }

  bool key(string_t& value) override {
    if (depth_ == 1) {
      name_ = value;
      if (!names_.insert(name_).second) return wrong("key " + in_quotes(name_) + " is there twice");
      return true;
    }
    key_ = value;
    if (in_metadata_) return true;
    if (key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") {
      return wrong("tensor " + in_quotes(name_) + " has an unknown field " + in_quotes(key_));
    }
    if ((key_ == "dtype" && type_) || (key_ == "shape" && shape_) || (key_ == "data_offsets" && offsets_)) {
      return wrong("tensor " + in_quotes(name_) + " has the field " + in_quotes(key_) + " twice");
    }
    return true;
  }

  bool end_object() override {
    if (--depth_ == 0 || in_metadata_) {
      in_metadata_ = false;
      return true;
    }
    if (!type_ || !shape_ || !offsets_) {
      return wrong("tensor " + in_quotes(name_) + " lacks dtype, shape or data_offsets");
    }
    if (offsets_->size() != 2 || (*offsets_)[0] > (*offsets_)[1]) {
      return wrong("tensor " + in_quotes(name_) + " has data_offsets that are not [begin, end]");
    }
    int64_t bytes = size_of(*type_);
    for (const int64_t extent : *shape_) {
      if (__builtin_mul_overflow(bytes, extent, &bytes)) {
        return wrong("tensor " + in_quotes(name_) + " has a shape beyond 2^63 bytes");
      }
    }
    const Range range{(*offsets_)[0], (*offsets_)[1]};
    if (bytes != range.size()) {
      return wrong("tensor " + in_quotes(name_) + " has a shape of " + std::to_string(bytes) +
                   " bytes, but data_offsets of " + std::to_string(range.size()));
    }
    tensors.push_back({name_, *type_, std::move(*shape_), range});
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_list_ || key_ == "dtype") return refuse("a list");
    in_list_ = true;
    list_.clear();
    return true;
  }

  bool end_array() override {
    in_list_ = false;
    (key_ == "shape" ? shape_ : offsets_) = std::move(list_);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return wrong("it is not correct JSON near byte " + std::to_string(position));
  }

 private:
  bool wrong(std::string text) {
    if (problem.empty()) problem = std::move(text);
    return false;
  }
  bool refuse(const std::string& what) {
    return wrong("there is " + what + " at " + in_quotes(depth_ == 2 ? name_ + "." + key_ : name_) +
                 ", where none may be");
  }

  int depth_ = 0;
  bool in_list_ = false;
  bool in_metadata_ = false;
  std::string name_, key_;
  std::set<std::string> names_;
  std::vector<int64_t> list_;
  std::optional<StoredType> type_;
  std::optional<std::vector<int64_t>> shape_, offsets_;
};

}  // namespace

int64_t size_of(StoredType type) { return row_of(type).size; }

std::string_view name_of(StoredType type) { return row_of(type).name; }

StoredType stored_type_of(DType type) {
  switch (type) {
    case DType::fp64: return StoredType::f64;
    case DType::fp32: return StoredType::f32;
    case DType::bf16: return StoredType::bf16;
    default: return StoredType::f16;
  }
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(MappedFile::open(path)) {
  const auto fail = [&](const std::string& problem) -> Error {
    return Error(ErrorCode::format, path + " is not a correct safetensors file: " + problem);
  };
  const auto bytes = file_->bytes();
  if (bytes.size() < 8) {
    throw fail("it has " + std::to_string(bytes.size()) + " bytes; at least 8 are needed");
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > kMaxHeader) {
    throw fail("its header claims " + std::to_string(header_bytes) + " bytes; at most " + std::to_string(kMaxHeader) +
               " are allowed");
  }
  if (header_bytes > bytes.size() - 8) {
    throw fail("its header claims " + std::to_string(header_bytes) + " bytes, but only " +
               std::to_string(bytes.size() - 8) + " follow; the file was cut short");
  }
  const char* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  if (header_bytes == 0 || text[0] != '{') throw fail("its header does not begin with '{'");

  // The JSON parser takes a zero byte for the end of its input.
  if (std::memchr(text, 0, header_bytes) != nullptr) throw fail("its header has a zero byte");

  HeaderReader reader;
  nlohmann::json::sax_parse(text, text + header_bytes, &reader);
  if (!reader.problem.empty()) throw fail("in its header, " + reader.problem);
  metadata_ = std::move(reader.metadata);
  tensors_ = std::move(reader.tensors);

  // Together the tensors must cover the data exactly once.
  std::sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.bytes.begin, a.bytes.end) < std::pair(b.bytes.begin, b.bytes.end);
  });
  data_begin_ = static_cast<int64_t>(8 + header_bytes);
  const int64_t data_bytes = static_cast<int64_t>(bytes.size()) - data_begin_;
  int64_t end = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const StoredTensor& tensor = tensors_[i];
    if (tensor.bytes.begin != end) {
      throw fail("tensor " + in_quotes(tensor.name) + " begins at byte " + std::to_string(tensor.bytes.begin) +
                 " of the data, but the one before it ends at " + std::to_string(end) +
                 "; neither holes nor overlaps are allowed");
    }
    end = tensor.bytes.end;
    by_name_.emplace(tensor.name, i);
  }
  if (end != data_bytes) {
    throw fail("its tensors have " + std::to_string(end) + " bytes, but " + std::to_string(data_bytes) +
               " follow the header");
  }
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> SafetensorsFile::data(const StoredTensor& tensor) const {
  return file_->bytes().subspan(static_cast<size_t>(data_begin_ + tensor.bytes.begin),
                                static_cast<size_t>(tensor.bytes.size()));
}

void write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  // Larger elements first: then every tensor is aligned without gaps, which are not allowed.
  std::vector<const TensorToWrite*> order;
  std::set<std::string_view> names;
  for (const TensorToWrite& tensor : tensors) {
    if (tensor.name == "__metadata__" || !names.insert(tensor.name).second) {
      throw Error(ErrorCode::usage, "cannot write " + path + ": the tensor name " + in_quotes(tensor.name) +
                                        " is reserved or given twice");
    }
    order.push_back(&tensor);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorToWrite* a, const TensorToWrite* b) { return size_of(a->type) > size_of(b->type); });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::vector<size_t> sizes;
  int64_t offset = 0;
  for (const TensorToWrite* tensor : order) {
    int64_t bytes = size_of(tensor->type);
    for (const int64_t extent : tensor->shape) {
      WEFT_CHECK(extent >= 0 && !__builtin_mul_overflow(bytes, extent, &bytes));
    }
    header[tensor->name] = {
        {"dtype", name_of(tensor->type)}, {"shape", tensor->shape}, {"data_offsets", {offset, offset + bytes}}};
    sizes.push_back(static_cast<size_t>(bytes));
    offset += bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');

  AtomicFile file(path);
  const uint64_t header_bytes = text.size();
  file.write(&header_bytes, 8);
  file.write(text.data(), text.size());
  for (size_t i = 0; i < order.size(); ++i) file.write(order[i]->data, sizes[i]);
  file.commit();
}

}  // namespace weft
