// Packs documents without padding into sequences of exactly N tokens, in an order given by a seed.
//
//   Packer packer(corpus, /*tokens=*/8192, /*seed=*/1);
//   PackedSequence s = packer.next();
//   DataPosition position = packer.position();    // three numbers: packer.seek(position) goes back
//
// All documents of an epoch follow each other in a shuffled order. A document that does not fit into
// a sequence is cut there, and what is left begins the next sequence as a document of its own:
// attention does not reach over the cut, positions restart, and the last token before it has no
// label. After the last document the next epoch begins, shuffled anew. Ranks play no part in this.
#pragma once

#include <cstdint>
#include <vector>

#include "weft/data/corpus.h"

namespace weft {

inline constexpr int64_t kNoLabel = -100;

struct PackedSequence {
  std::vector<int64_t> ids;               // [tokens]
  std::vector<int64_t> positions;         // within the document
  std::vector<int64_t> labels;            // the next token of the document, or kNoLabel at its end
  std::vector<int64_t> document_lengths;  // their sum is tokens
  int64_t label_count = 0;                // labels that are not kNoLabel
};

struct DataPosition {
  int64_t epoch = 0;
  int64_t document = 0;  // place in the epoch's order
  int64_t offset = 0;    // tokens of that document already given out
  friend bool operator==(const DataPosition&, const DataPosition&) = default;
};

class Packer {
 public:
  // `corpus` is borrowed. Throws Error(usage) for tokens < 2: no token would have a label.
  Packer(Corpus& corpus, int64_t tokens, uint64_t seed);

  PackedSequence next();
  DataPosition position() const { return position_; }
  // Throws Error(format) if this corpus has no such position.
  void seek(DataPosition position);

 private:
  void shuffle(int64_t epoch);

  Corpus& corpus_;
  int64_t tokens_;
  uint64_t seed_;
  DataPosition position_;
  std::vector<int32_t> order_;  // of documents, in the current epoch
};

}  // namespace weft
