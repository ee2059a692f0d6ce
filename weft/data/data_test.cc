#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>

#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/data/corpus.h"
#include "weft/data/packing.h"
#include "weft/data/tokenizer.h"
#include "weft/files/atomic_file.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

class DataTest : public ::testing::Test {
 protected:
  DataTest() {
    folder_ = ::testing::TempDir() + "data_test_" + std::to_string(::getpid());
    make_folder(folder_);
  }
  ~DataTest() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) {
    make_folder(fs::path(folder_ + "/" + name).parent_path().string());
    write_file(folder_ + "/" + name, text);
  }

  // `count` files whose text tells which file and where.
  void write_documents(int count, uint64_t seed) {
    Random random(seed);
    for (int i = 0; i < count; ++i) {
      std::string text;
      for (int64_t n = random.uniform(1, 200); n > 0; --n) {
        text += static_cast<char>(random.uniform(1, 256));
      }
      write("d" + std::to_string(i % 7) + "/f" + std::to_string(i), text);
    }
  }

  std::string error_of(const std::string& path, ErrorCode code) {
    try {
      Corpus corpus(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "accepted " << path;
    return "";
  }

  std::string folder_;
};

TEST_F(DataTest, FindsFilesInOrder) {
  write("b.txt", "bb");
  write("a/z.txt", "z");
  write("a.txt", "a");
  write("empty", "");
  write("binary", std::string("x\0y", 3));
  write(".hidden", "x");
  write(".git/config", "x");
  fs::create_directory_symlink(folder_, folder_ + "/a/circle");
  fs::create_symlink(folder_ + "/b.txt", folder_ + "/link");
  fs::create_symlink("/nonexistent", folder_ + "/dangling");
  Corpus corpus(folder_);
  std::vector<std::string> paths;
  for (const Document& d : corpus.documents()) paths.push_back(d.path);
  EXPECT_EQ(paths, (std::vector<std::string>{"a.txt", "a/z.txt", "b.txt", "link"}));
  EXPECT_EQ(corpus.skipped_files(), 2);
  EXPECT_EQ(corpus.tokens(), 2 + 2 + 3 + 3);
  std::vector<int64_t> ids;
  corpus.read(2, {0, 3}, ids);
  corpus.read(2, {1, 2}, ids);
  corpus.read(0, {1, 2}, ids);
  EXPECT_EQ(ids, (std::vector<int64_t>{'b', 'b', 256, 'b', 256}));
}

TEST_F(DataTest, AFileIsACorpusToo) {
  write("a.txt", "\xff\x80");
  Corpus corpus(folder_ + "/a.txt");
  std::vector<int64_t> ids;
  corpus.read(0, {0, 3}, ids);
  EXPECT_EQ(ids, (std::vector<int64_t>{255, 128, 256}));
}

TEST_F(DataTest, RefusesWhatIsNotText) {
  error_of(folder_ + "/none", ErrorCode::io);
  error_of(folder_, ErrorCode::usage);
  write("binary", std::string(3, '\0'));
  EXPECT_NE(error_of(folder_, ErrorCode::usage).find("1 files"), std::string::npos);
  error_of("/dev/null", ErrorCode::io);
}

TEST_F(DataTest, AFileThatShrinksIsAnError) {
  write("a", "12345");
  Corpus corpus(folder_);
  write("a", "1");
  std::vector<int64_t> ids;
  EXPECT_THROW(corpus.read(0, {0, 6}, ids), Error);
}

TEST_F(DataTest, FingerprintsTellFoldersApart) {
  write("a", "1");
  const uint64_t one = Corpus(folder_).fingerprint();
  EXPECT_EQ(Corpus(folder_).fingerprint(), one);
  write("a", "12");
  EXPECT_NE(Corpus(folder_).fingerprint(), one);
}

TEST_F(DataTest, SequencesHoldEveryTokenOfAnEpochOnce) {
  write_documents(60, 3);
  Corpus corpus(folder_);
  for (const int64_t tokens : {2, 64, 1000}) {
    Packer packer(corpus, tokens, 5);
    std::vector<int64_t> stream;
    while (static_cast<int64_t>(stream.size()) < corpus.tokens()) {
      const PackedSequence s = packer.next();
      ASSERT_EQ(static_cast<int64_t>(s.ids.size()), tokens);
      ASSERT_EQ(std::accumulate(s.document_lengths.begin(), s.document_lengths.end(), int64_t{0}), tokens);
      size_t i = 0;
      int64_t labels = 0;
      for (const int64_t length : s.document_lengths) {
        ASSERT_GT(length, 0);
        for (int64_t p = 0; p < length; ++p, ++i) {
          ASSERT_EQ(s.positions[i], p);
          ASSERT_EQ(s.labels[i], p + 1 < length ? s.ids[i + 1] : kNoLabel);
          ASSERT_TRUE(p + 1 == length || s.ids[i] != kEndOfDocument);
          labels += s.labels[i] != kNoLabel;
        }
      }
      ASSERT_EQ(labels, s.label_count);
      stream.insert(stream.end(), s.ids.begin(), s.ids.end());
    }
    stream.resize(static_cast<size_t>(corpus.tokens()));
    // Cut the stream at the end-of-document tokens: every document is there once.
    std::map<std::vector<int64_t>, int> seen;
    std::vector<int64_t> document;
    for (const int64_t id : stream) {
      document.push_back(id);
      if (id == kEndOfDocument) {
        ++seen[document];
        document.clear();
      }
    }
    for (size_t d = 0; d < corpus.documents().size(); ++d) {
      std::vector<int64_t> want;
      corpus.read(static_cast<int64_t>(d), {0, corpus.documents()[d].tokens()}, want);
      ASSERT_GE(--seen[want], 0);
    }
  }
}

TEST_F(DataTest, TheSeedDecidesAndPositionsResume) {
  write_documents(40, 4);
  Corpus corpus(folder_);
  Packer a(corpus, 300, 1), b(corpus, 300, 1), c(corpus, 300, 2);
  bool differs = false;
  std::vector<std::vector<int64_t>> epochs_seen;
  for (int i = 0; i < 100; ++i) {
    const PackedSequence x = a.next();
    const DataPosition before = b.position();
    EXPECT_EQ(x.ids, b.next().ids);
    differs |= x.ids != c.next().ids;
    Packer fresh(corpus, 300, 1);
    fresh.seek(before);
    EXPECT_EQ(x.ids, fresh.next().ids);
    EXPECT_EQ(fresh.position(), a.position());
  }
  EXPECT_GT(a.position().epoch, 1);
  EXPECT_TRUE(differs);
  EXPECT_THROW(a.seek({0, 40, 0}), Error);
  EXPECT_THROW(a.seek({0, 0, 100000}), Error);
  EXPECT_THROW(a.seek({-1, 0, 0}), Error);
  EXPECT_THROW(Packer(corpus, 1, 0), Error);
}

TEST_F(DataTest, TokenizerFilesAreWritten) {
  write_tokenizer(folder_);
  const std::string text = read_file(folder_ + "/tokenizer.json");
  EXPECT_NE(text.find("\"A\": 65"), std::string::npos);
  EXPECT_NE(text.find("\"\xc4\xa0\": 32"), std::string::npos);  // a space is U+0120
  EXPECT_NE(text.find("\"\xc3\xbf\": 255"), std::string::npos);
  EXPECT_NE(text.find("\"<|endofdocument|>\": 256"), std::string::npos);
}

}  // namespace
}  // namespace weft
