// Fetch what is needed: the writer that all-gather, llama3 and group-cast share.
//
// Every rank fetches the rows of k and v that its queries see, straight from their owners, in pieces: by groups of kv
// heads, by owners, by parts of every owner's rows, or all of it. A piece travels while the one before it is attended to,
// and its memory is given back after. In backward the pieces are fetched again, unless they were kept, and the gradient
// of each goes straight home while the next is computed.
#pragma once

#include <memory>

#include "weft/schedule/builder.h"

namespace weft::methods {

// How the remote rows are cut in pieces. One stage and all heads: a single gather.
struct GatherPieces {
  int stages = 1;        // the other ranks, by distance, in this many parts; at least 1
  int chunks = 1;        // parts that every owner's rows are cut in; at least 1
  int64_t kv_heads = 0;  // kv heads fetched at a time; 0: all
  bool keep = false;     // keep what forward fetched until backward
};

// The program of one rank.
Steps write_gather(std::shared_ptr<const Problem> problem, GatherPieces pieces, int rank, Builder& b);

}  // namespace weft::methods
