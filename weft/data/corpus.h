// The text files of a folder as documents of byte tokens.
//
//   Corpus corpus("/usr/lib/python3.11");
//   corpus.documents();                 // path and bytes of each, sorted by path
//   corpus.read(3, {0, 100}, out);      // token ids 0..255, and 256 at the end of the document
//
// A document is one file; its tokens are its bytes and kEndOfDocument. Files are found recursively;
// left out are names that begin with a dot, empty files, files with a zero byte among the first
// 8192 (not text), and symbolic links to folders (they may form circles). Files are mapped when
// read, so their size does not matter.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weft/base/range.h"
#include "weft/files/mapped_file.h"

namespace weft {

inline constexpr int64_t kEndOfDocument = 256;
inline constexpr int64_t kByteVocabulary = 257;

struct Document {
  std::string path;  // below the corpus folder
  int64_t bytes = 0;
  int64_t tokens() const { return bytes + 1; }
};

class Corpus {
 public:
  // `path` is a folder or one file. Throws Error(io) if it, a folder or a file inside it cannot be
  // read, Error(usage) if there is no text in it.
  explicit Corpus(const std::string& path);

  const std::string& path() const { return path_; }
  // Sorted by path, byte by byte: the same on every machine.
  const std::vector<Document>& documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  int64_t skipped_files() const { return skipped_files_; }  // empty or not text
  // Equal for equal lists of paths and sizes: a resumed run must see what the first one saw.
  uint64_t fingerprint() const { return fingerprint_; }

  // Appends tokens [range.begin, range.end) of a document. Not for several threads at once. Throws
  // Error(io) if the file was shortened or removed since it was found.
  void read(int64_t document, Range range, std::vector<int64_t>& out);

 private:
  std::string file_of(const Document& document) const;

  std::string path_;
  bool single_file_ = false;
  std::vector<Document> documents_;
  int64_t tokens_ = 0;
  int64_t skipped_files_ = 0;
  uint64_t fingerprint_ = 0;
  int64_t mapped_document_ = -1;  // the last one read: the next piece is usually of the same
  std::shared_ptr<const MappedFile> mapped_;
};

}  // namespace weft
