#include "weft/data/packing.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string>

#include "weft/base/error.h"
#include "weft/base/random.h"

namespace weft {

Packer::Packer(Corpus& corpus, int64_t tokens, uint64_t seed) : corpus_(corpus), tokens_(tokens), seed_(seed) {
  if (tokens < 2) {
    throw Error(ErrorCode::usage,
                "sequences of " + std::to_string(tokens) + " tokens have nothing to predict; give 2 or more");
  }
  shuffle(0);
}

void Packer::shuffle(int64_t epoch) {
  order_.resize(corpus_.documents().size());
  std::iota(order_.begin(), order_.end(), 0);
  Random random(seed_, static_cast<uint64_t>(epoch));
  random.shuffle(std::span<int32_t>(order_));
}

PackedSequence Packer::next() {
  PackedSequence out;
  out.ids.reserve(static_cast<size_t>(tokens_));
  int64_t left = tokens_;
  while (left > 0) {
    const int64_t document = order_[static_cast<size_t>(position_.document)];
    const int64_t end = corpus_.documents()[static_cast<size_t>(document)].tokens();
    const int64_t take = std::min(left, end - position_.offset);
    corpus_.read(document, {position_.offset, position_.offset + take}, out.ids);
    out.document_lengths.push_back(take);
    left -= take;
    position_.offset += take;
    if (position_.offset < end) continue;
    position_.offset = 0;
    if (++position_.document == static_cast<int64_t>(order_.size())) {
      position_.document = 0;
      shuffle(++position_.epoch);
    }
  }

  out.positions.reserve(out.ids.size());
  out.labels.reserve(out.ids.size());
  for (const int64_t length : out.document_lengths) {
    for (int64_t i = 0; i < length; ++i) {
      const size_t here = out.positions.size();
      out.positions.push_back(i);
      out.labels.push_back(i + 1 < length ? out.ids[here + 1] : kNoLabel);
    }
    out.label_count += length - 1;
  }
  return out;
}

void Packer::seek(DataPosition position) {
  const auto& documents = corpus_.documents();
  bool valid = position.epoch >= 0 && position.document >= 0 && position.offset >= 0 &&
               position.document < static_cast<int64_t>(documents.size());
  if (valid) {
    shuffle(position.epoch);
    const int64_t document = order_[static_cast<size_t>(position.document)];
    valid = position.offset < documents[static_cast<size_t>(document)].tokens();
  }
  if (!valid) {
    throw Error(ErrorCode::format, "there is no place (epoch " + std::to_string(position.epoch) + ", document " +
                                       std::to_string(position.document) + ", offset " +
                                       std::to_string(position.offset) + ") in " + corpus_.path());
  }
  position_ = position;
}

}  // namespace weft
