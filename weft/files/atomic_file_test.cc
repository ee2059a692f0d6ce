#include "weft/files/atomic_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "weft/base/error.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public ::testing::Test {
 protected:
  AtomicFileTest() {
    folder_ = ::testing::TempDir() + "atomic_file_test_" + std::to_string(::getpid());
    make_folder(folder_);
  }
  ~AtomicFileTest() override { fs::remove_all(folder_); }
  int64_t entries() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }
  std::string folder_;
};

// Stands in for a full disk: writes beyond the limit fail.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    old_handler_ = ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limit = old_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    ::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_;
  void (*old_handler_)(int);
};

TEST_F(AtomicFileTest, WritesAndReplaces) {
  const std::string path = folder_ + "/a.txt";
  write_file(path, "one");
  write_file(path, "two");
  EXPECT_EQ(read_file(path), "two");
  EXPECT_EQ(entries(), 1);
}

TEST_F(AtomicFileTest, APipeIsWrittenToAndStaysAPipe) {
  const std::string path = folder_ + "/pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const int reader = ::open(path.c_str(), O_RDWR | O_NONBLOCK);
  write_file(path, "one");
  char bytes[8] = {};
  EXPECT_EQ(::read(reader, bytes, sizeof bytes), 3);
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(path));
  EXPECT_EQ(entries(), 1);
}

TEST_F(AtomicFileTest, ALinkStaysALink) {
  const std::string path = folder_ + "/file", link = folder_ + "/link";
  write_file(path, "one");
  fs::create_symlink(path, link);
  write_file(link, "two");
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(read_file(path), "two");
}

TEST_F(AtomicFileTest, WithoutCommitTheOldFileStays) {
  const std::string path = folder_ + "/a.txt";
  write_file(path, "one");
  {
    AtomicFile file(path);
    file.write("two", 3);
    EXPECT_EQ(read_file(path), "one");
  }
  EXPECT_EQ(read_file(path), "one");
  EXPECT_EQ(entries(), 1);
}

TEST_F(AtomicFileTest, AFailingWriteLeavesTheOldFileAndNoRest) {
  const std::string path = folder_ + "/a.txt";
  write_file(path, "one");
  {
    const FileSizeLimit limit(4096);
    try {
      write_file(path, std::string(100000, 'x'));
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::io);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
    }
  }
  EXPECT_EQ(read_file(path), "one");
  EXPECT_EQ(entries(), 1);
}

TEST_F(AtomicFileTest, FoldersAppearComplete) {
  const std::string path = folder_ + "/step-1";
  {
    AtomicFolder folder(path);
    write_file(folder.path() + "/x", "lost");
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_EQ(entries(), 0);
  for (const std::string text : {"one", "two"}) {
    AtomicFolder folder(path + "/");
    write_file(folder.path() + "/x", text);
    folder.commit();
    EXPECT_EQ(read_file(path + "/x"), text);
    EXPECT_EQ(entries(), 1);
  }
}

TEST_F(AtomicFileTest, RefusesLargeAndMissingFiles) {
  write_file(folder_ + "/a", "12345");
  EXPECT_THROW(read_file(folder_ + "/a", 4), Error);
  EXPECT_THROW(read_file(folder_ + "/b"), Error);
  EXPECT_THROW(write_file(folder_ + "/none/b", "x"), Error);
  EXPECT_THROW(make_folder(folder_ + "/a"), Error);
  EXPECT_THROW(make_folder("/dev/null/x"), Error);
}

}  // namespace
}  // namespace weft
