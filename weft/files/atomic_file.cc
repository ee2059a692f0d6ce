#include "weft/files/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "weft/base/error.h"
#include "weft/files/mapped_file.h"

namespace weft {

namespace fs = std::filesystem;

namespace {

Error failure(const std::string& what, const std::string& path, int number) {
  return Error(ErrorCode::io, "cannot " + what + " " + path + ": " + std::strerror(number));
}

// Begins with a dot, so that readers who list a folder leave it out; unique among all processes.
std::string temporary_name(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  const fs::path target(path);
  return (target.parent_path() / ("." + target.filename().string() + ".tmp-" + std::to_string(::getpid()) + "-" +
                                  std::to_string(counter.fetch_add(1))))
      .string();
}

// A trailing slash would make the file name empty.
std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

void remove_tree(const std::string& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace

void sync_folder(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw failure("open folder", path, errno);
  const int result = ::fsync(descriptor);
  const int number = errno;
  ::close(descriptor);
  // Some file systems (overlays, network shares) cannot flush a folder: nothing is lost by going on.
  if (result != 0 && number != EINVAL && number != ENOTSUP) {
    throw failure("flush folder", path, number);
  }
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  std::error_code ignored;
  // The file that a link names is replaced, not the link.
  if (fs::is_symlink(path_, ignored)) {
    const fs::path target = fs::weakly_canonical(path_, ignored);
    if (!ignored) path_ = target.string();
  }
  const fs::file_status status = fs::status(path_, ignored);
  if (fs::exists(status) && !fs::is_regular_file(status)) {  // a device or pipe cannot be replaced, only written to
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw failure("write", path_, errno);
    return;
  }
  temporary_ = temporary_name(path_);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw failure("write", path_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, next, std::min(size, size_t{1} << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      throw failure("write", path_, errno);
    }
    next += written;
    size -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (!temporary_.empty() && ::fsync(descriptor_) != 0) throw failure("flush", path_, errno);
  // close() reports what a network file system could not store.
  const int result = ::close(std::exchange(descriptor_, -1));
  if (result != 0) throw failure("write", path_, errno);
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw failure("write", path_, errno);
  temporary_.clear();
  sync_folder(parent_of(path_));
}

AtomicFolder::AtomicFolder(std::string path) : path_(without_trailing_slash(std::move(path))) {
  temporary_ = temporary_name(path_);
  make_folder(temporary_);
}

AtomicFolder::~AtomicFolder() {
  if (!committed_) remove_tree(temporary_);
}

void AtomicFolder::commit() {
  sync_folder(temporary_);
  // A folder that is not empty cannot be renamed over: the old one steps aside first.
  std::string old;
  if (::access(path_.c_str(), F_OK) == 0) {
    old = temporary_name(path_);
    if (::rename(path_.c_str(), old.c_str()) != 0) throw failure("replace", path_, errno);
  }
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int number = errno;
    if (!old.empty()) ::rename(old.c_str(), path_.c_str());
    throw failure("write", path_, number);
  }
  committed_ = true;
  sync_folder(parent_of(path_));
  if (!old.empty()) remove_tree(old);
}

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

std::string read_file(const std::string& path, size_t max_bytes) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() > max_bytes) {
    throw Error(ErrorCode::io, "cannot read " + path + ": it has " + std::to_string(bytes.size()) + " bytes; at most " +
                                   std::to_string(max_bytes) + " are read");
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error && !fs::is_directory(path, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) throw Error(ErrorCode::io, "cannot create folder " + path + ": " + error.message());
}

}  // namespace weft
