#include "weft/data/corpus.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "weft/base/digest.h"
#include "weft/base/error.h"

namespace weft {

namespace fs = std::filesystem;

namespace {

constexpr size_t kProbe = 8192;  // bytes looked at to tell text from other files, as git does

Error unreadable(const std::string& path, const std::error_code& error) {
  return Error(ErrorCode::io, "cannot read text folder " + path + ": " + error.message());
}

// Files below `folder`, as paths relative to `root`.
void find_files(const fs::path& root, const fs::path& folder, std::vector<std::string>& out) {
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const fs::path& path = it->path();
    if (path.filename().native().starts_with('.')) continue;
    // A link whose target is gone, or a file removed meanwhile, is no document.
    std::error_code gone;
    const fs::file_status status = it->status(gone);
    if (fs::is_directory(status)) {
      if (!it->is_symlink(gone)) find_files(root, path, out);
    } else if (fs::is_regular_file(status)) {
      out.push_back(path.lexically_relative(root).native());
    }
  }
  if (error) throw unreadable(folder.native(), error);
}

bool is_text(const MappedFile& file) {
  const auto bytes = file.bytes();
  return std::memchr(bytes.data(), 0, std::min(bytes.size(), kProbe)) == nullptr;
}

}  // namespace

Corpus::Corpus(const std::string& path) : path_(path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (error) throw unreadable(path, error);
  std::vector<std::string> names;
  if (fs::is_directory(status)) {
    find_files(path, path, names);
  } else {
    single_file_ = true;
    names.push_back(fs::path(path).filename().native());
  }
  std::sort(names.begin(), names.end());

  Digest digest;
  for (std::string& name : names) {
    Document document{std::move(name), 0};
    const auto file = MappedFile::open(file_of(document));
    document.bytes = static_cast<int64_t>(file->bytes().size());
    if (document.bytes == 0 || !is_text(*file)) {
      ++skipped_files_;
      continue;
    }
    digest.add(document.path).add(document.bytes);
    tokens_ += document.tokens();
    documents_.push_back(std::move(document));
  }
  fingerprint_ = digest.value();
  if (documents_.empty()) {
    throw Error(ErrorCode::usage, "no text in " + path + " (" + std::to_string(skipped_files_) +
                                      " files are empty or binary); give a folder with text files in it or below it");
  }
}

std::string Corpus::file_of(const Document& document) const {
  return single_file_ ? path_ : path_ + "/" + document.path;
}

void Corpus::read(int64_t document, Range range, std::vector<int64_t>& out) {
  const Document& source = documents_.at(static_cast<size_t>(document));
  WEFT_CHECK(0 <= range.begin && range.begin <= range.end && range.end <= source.tokens());
  if (mapped_document_ != document) {
    mapped_ = MappedFile::open(file_of(source));
    mapped_document_ = document;
    if (static_cast<int64_t>(mapped_->bytes().size()) < source.bytes) {
      mapped_document_ = -1;
      throw Error(ErrorCode::io, file_of(source) +
                                     " has become shorter since the start; do not change "
                                     "the text while it is read");
    }
  }
  const std::byte* bytes = mapped_->bytes().data();
  const int64_t text_end = std::min(range.end, source.bytes);
  for (int64_t i = range.begin; i < text_end; ++i) out.push_back(static_cast<int64_t>(bytes[i]));
  if (range.end == source.tokens() && !range.empty()) out.push_back(kEndOfDocument);
}

}  // namespace weft
