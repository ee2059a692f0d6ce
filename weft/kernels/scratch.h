// Per-thread working memory of the CPU kernels: grows to what a call needs and is kept for the next
// call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace weft::kernels {

// A buffer of floats aligned to a cache line, that only grows. Contents do not survive growth.
class ScratchBuffer {
 public:
  float* get(int64_t count);

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t capacity_ = 0;
};

// The buffers of one kernel call, by use. Bounded by tile sizes and head dims, not by the sequence.
struct Scratch {
  ScratchBuffer q, dout, q_columns, dout_columns;  // packed queries
  ScratchBuffer k, v, k_columns;                   // packed keys
  ScratchBuffer rows, state, o;                    // per query: lse and delta; maximum and sum; outputs
  ScratchBuffer dq, dk, dv;                        // gradients being summed
  ScratchBuffer scores, gradients, transposed;
  ScratchBuffer dk_row, dv_row;    // one row of dk, dv: canonical kernels
  std::vector<const void*> lines;  // cache lines to ask memory for
};
Scratch& thread_scratch();

}  // namespace weft::kernels
