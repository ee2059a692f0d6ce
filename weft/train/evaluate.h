// The loss of a model on packed text, over any number of ranks.
//
//   EvalResult r = evaluate({.model = "out/model", .text = "folder", .tokens = 4096}, factory, stop);
//   r.loss;   // mean over r.tokens labelled tokens
#pragma once

#include <cstdint>
#include <string>

#include "weft/base/dtype.h"
#include "weft/base/stop.h"
#include "weft/train/sequence_plan.h"
#include "weft/transport/processes.h"

namespace weft {

struct EvalOptions {
  std::string model;  // Hugging Face folder
  std::string text;   // folder or file
  DType dtype = DType::fp32;
  int ranks = 1;
  int64_t tokens = 8192;
  int64_t sequences = 1;
  uint64_t seed = 0;  // which documents: the order is that of training with this seed
  // If not empty: a safetensors file with input_ids, position_ids and labels (already shifted: the
  // token after each, -100 = none), int64, [tokens] for one sequence, else [sequences, tokens].
  std::string dump;
};

struct EvalResult {
  double loss = 0;
  int64_t tokens = 0;  // labelled
};

// With `processes`, one rank in each: all have the result, rank 0 writes the dump.
EvalResult evaluate(const EvalOptions& options, const PlanFactory& factory, const StopFlag& interrupt,
                    Processes* processes = nullptr);

}  // namespace weft
