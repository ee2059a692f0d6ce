// Files that are there completely or not at all, also when the disk is full or the power fails.
//
//   AtomicFile file("out/config.json");
//   file.write(text.data(), text.size());
//   file.commit();                        // flushed to the disk, then renamed over the old file
//
// Bytes go to a temporary name in the same folder; without commit() it is removed and whatever was
// there before stays. A symbolic link stays one: the file that it names is replaced. A device or a
// pipe cannot be replaced; it is written to directly. Every failure is an Error(io) that names the file and the system's reason.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace weft {

class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);
  // At most once, after the last write.
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
};

// A folder that is there completely or not at all: fill path(), then commit() renames it to `path`.
//
//   AtomicFolder folder("out/checkpoints/step-100");
//   write_file(folder.path() + "/state.json", text);
//   folder.commit();
//
// If `path` exists it is replaced by commit(). Without commit() the temporary folder is removed.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::string path);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::string& path() const { return temporary_; }
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  bool committed_ = false;
};

// The whole text through an AtomicFile.
void write_file(const std::string& path, std::string_view text);

// The whole file as text. Throws Error(io), also when it holds more than `max_bytes`: what reads a
// small document must not swallow a disk.
std::string read_file(const std::string& path, size_t max_bytes = size_t{256} << 20);

// Creates the folder and its parents. Throws Error(io).
void make_folder(const std::string& path);

// Flushes a folder's list of names to the disk.
void sync_folder(const std::string& path);

}  // namespace weft
