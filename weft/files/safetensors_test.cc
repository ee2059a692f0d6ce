#include "weft/files/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/files/atomic_file.h"

namespace weft {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsTest() {
    folder_ = ::testing::TempDir() + "safetensors_test_" + std::to_string(::getpid());
    make_folder(folder_);
    path_ = folder_ + "/x.safetensors";
  }
  ~SafetensorsTest() override { std::filesystem::remove_all(folder_); }

  // A file with this header (its length in front) and `data` zero bytes behind.
  void write_raw(const std::string& header, size_t data, uint64_t claimed) {
    std::ofstream out(path_, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&claimed), 8);
    out << header << std::string(data, '\0');
  }

  // The message with which the file is refused; fails the test if it is not Error(format).
  std::string refusal(const std::string& header, size_t data) {
    write_raw(header, data, header.size());
    return refusal();
  }
  std::string refusal() {
    try {
      SafetensorsFile file(path_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::format) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }

  std::string folder_, path_;
};

TEST_F(SafetensorsTest, RoundTripKeepsEverything) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> b = {0x3f80, 0x4000, 0x4040};
  const std::vector<int64_t> c = {-100, 7};
  const double d = 0.5;
  write_safetensors(path_,
                    {{"b", StoredType::bf16, {3}, b.data()},
                     {"a", StoredType::f32, {2, 3}, a.data()},
                     {"c", StoredType::i64, {2}, c.data()},
                     {"scalar", StoredType::f64, {}, &d},
                     {"none", StoredType::f32, {0, 5}, nullptr}},
                    {{"format", "pt"}, {"text", "\"quoted\"\n"}});
  const SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(file.metadata().at("text"), "\"quoted\"\n");
  const StoredTensor* found = file.find("a");
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(found->elements(), 6);
  EXPECT_EQ(std::memcmp(file.data(*found).data(), a.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.data(*file.find("b")).data(), b.data(), 6), 0);
  EXPECT_EQ(std::memcmp(file.data(*file.find("c")).data(), c.data(), 16), 0);
  EXPECT_TRUE(file.find("scalar")->shape.empty());
  EXPECT_EQ(file.find("none")->elements(), 0);
  EXPECT_EQ(file.find("missing"), nullptr);
  for (const StoredTensor& tensor : file.tensors()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.data(tensor).data()) % size_of(tensor.type), 0u);
  }
}

TEST_F(SafetensorsTest, DataOutlivesTheFileObject) {
  const float x = 7;
  write_safetensors(path_, {{"x", StoredType::f32, {1}, &x}});
  std::shared_ptr<const void> owner;
  const std::byte* data = nullptr;
  {
    const SafetensorsFile file(path_);
    owner = file.owner();
    data = file.data(file.tensors()[0]).data();
  }
  float read = 0;
  std::memcpy(&read, data, 4);
  EXPECT_EQ(read, 7);
}

TEST_F(SafetensorsTest, RefusesWrongSizes) {
  std::ofstream(path_) << "abc";
  EXPECT_NE(refusal().find("at least 8"), std::string::npos);
  std::ofstream(path_, std::ios::trunc);
  refusal();
  write_raw("{}", 0, 3);
  EXPECT_NE(refusal().find("cut short"), std::string::npos);
  write_raw("{}", 0, 100'000'001);
  EXPECT_NE(refusal().find("at most 100000000"), std::string::npos);
  write_raw("{}", 0, ~uint64_t{0});
  refusal();
  write_raw("{}", 0, 0);
  refusal();
}

TEST_F(SafetensorsTest, AcceptsWhatTheFormatAllows) {
  write_raw("{}", 0, 2);
  EXPECT_TRUE(SafetensorsFile(path_).tensors().empty());
  const std::string padded = R"({"a":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}      )";
  write_raw(padded, 8, padded.size());
  EXPECT_EQ(SafetensorsFile(path_).tensors().size(), 1u);
}

TEST_F(SafetensorsTest, RefusesHostileHeaders) {
  const auto tensor = [](const std::string& name, const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const std::string f = "\"F32\"";
  const std::vector<std::pair<std::string, size_t>> cases = {
      {"[]", 0},
      {"{", 0},
      {"{} x", 0},
      {std::string("{}\0", 3), 0},
      {"{\"a\":1}", 0},
      {"{\"a\":[]}", 0},
      {"{\"a\":{}}", 0},
      {"{\"a\":{\"b\":{}}}", 0},
      {"{\"a\":{\"shape\":[[1]]}}", 0},
      {"{\"\xff\":{}}", 0},
      {"{" + tensor("a", f, "[2]", "[0,8]") + "}", 7},          // data cut
      {"{" + tensor("a", f, "[2]", "[0,8]") + "}", 9},          // data left over
      {"{" + tensor("a", f, "[3]", "[0,8]") + "}", 8},          // shape and bytes differ
      {"{" + tensor("a", f, "[2]", "[8,0]") + "}", 8},          // end before begin
      {"{" + tensor("a", f, "[2]", "[0,8,16]") + "}", 8},       // three offsets
      {"{" + tensor("a", f, "[2]", "[0]") + "}", 8},            // one offset
      {"{" + tensor("a", f, "[-2]", "[0,8]") + "}", 8},         // negative extent
      {"{" + tensor("a", f, "[2.0]", "[0,8]") + "}", 8},        // fraction
      {"{" + tensor("a", f, "[\"2\"]", "[0,8]") + "}", 8},      // text
      {"{" + tensor("a", f, "2", "[0,8]") + "}", 8},            // no list
      {"{" + tensor("a", "\"F31\"", "[2]", "[0,8]") + "}", 8},  // unknown type
      {"{" + tensor("a", "null", "[2]", "[0,8]") + "}", 8},     //
      {"{" + tensor("a", f, "[2]", "[4,12]") + "}", 12},        // hole in front
      {"{" + tensor("a", f, "[1]", "[0,4]") + "," + tensor("b", f, "[1]", "[8,12]") + "}", 12},
      {"{" + tensor("a", f, "[2]", "[0,8]") + "," + tensor("b", f, "[1]", "[4,8]") + "}", 8},
      {"{" + tensor("a", f, "[1]", "[0,4]") + "," + tensor("a", f, "[1]", "[4,8]") + "}", 8},
      {"{" + tensor("a", f, "[1],\"shape\":[1]", "[0,4]") + "}", 4},        // field twice
      {"{" + tensor("a", f, "[1],\"color\":\"red\"", "[0,4]") + "}", 4},    // unknown field
      {"{" + tensor("a", f, "[4611686018427387904,4]", "[0,0]") + "}", 0},  // 2^64 wraps to 0
      {"{" + tensor("a", f, "[2147483648,2147483648,4]", "[0,0]") + "}", 0},
      {"{" + tensor("a", f, "[18446744073709551615]", "[0,8]") + "}", 8},
      {"{" + tensor("a", f, "[99999999999999999999999]", "[0,8]") + "}", 8},
      {"{" + tensor("a", f, "[1]", "[9223372036854775804,9223372036854775808]") + "}", 4},
      {"{\"__metadata__\":{\"a\":1}}", 0},
      {"{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", 0},
      {"{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0},
      {std::string(100000, '['), 0},
      {"{\"a\":" + std::string(100000, '['), 0},
  };
  for (const auto& [header, data] : cases) {
    SCOPED_TRACE(header.substr(0, 120));
    EXPECT_FALSE(refusal(header, data).empty());
  }
}

TEST_F(SafetensorsTest, RandomDamageNeverCrashes) {
  const std::vector<float> a(64, 1.0f);
  write_safetensors(path_,
                    {{"model.a", StoredType::f32, {8, 8}, a.data()}, {"model.b", StoredType::f32, {4, 4}, a.data()}});
  const std::string good = read_file(path_);
  Random random(1);
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    for (int64_t n = random.uniform(1, 4); n > 0; --n) {
      bad[static_cast<size_t>(random.uniform(160))] = static_cast<char>(random.bits());
    }
    if (random.uniform(4) == 0) bad.resize(static_cast<size_t>(random.uniform(200)));
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bad;
    try {
      const SafetensorsFile file(path_);
      for (const StoredTensor& tensor : file.tensors()) {
        EXPECT_EQ(static_cast<int64_t>(file.data(tensor).size()), tensor.bytes.size());
      }
      ++accepted;  // e.g. another name of the same length
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::format);
    }
  }
  EXPECT_LT(accepted, 1500);
}

TEST_F(SafetensorsTest, RefusesToWriteANameTwice) {
  const float x = 0;
  EXPECT_THROW(write_safetensors(path_, {{"a", StoredType::f32, {1}, &x}, {"a", StoredType::f32, {1}, &x}}), Error);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(SafetensorsTest, MissingFilesAndFoldersAreIoErrors) {
  for (const std::string& path : {folder_ + "/none", folder_}) {
    try {
      SafetensorsFile file(path);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::io);
    }
  }
}

}  // namespace
}  // namespace weft
