// A training run at one moment, as a folder: everything that decides how it goes on.
//
//   write_checkpoint("out/checkpoints", state, map, weights, first, second);
//   std::string folder = find_checkpoint("out");      // out/checkpoints/step-N of the largest N
//   CheckpointState state = read_checkpoint_state(folder);
//
// out/checkpoints/step-N holds config.json and model.safetensors (a Hugging Face folder),
// optimizer.safetensors (first and second moments by parameter name) and state.json (step, place in
// the data, options). It is written under a temporary name, flushed and renamed: a folder called
// step-N is complete.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "weft/data/packing.h"
#include "weft/train/trainer.h"

namespace weft {

struct CheckpointState {
  int64_t step = 0;  // steps done
  DataPosition data;
  uint64_t corpus_fingerprint = 0;
  TrainOptions options;  // options.model is the model; options.init and resume are empty
};

// Returns the new folder. Leaves nothing behind if it throws Error(io).
std::string write_checkpoint(const std::string& folder, const CheckpointState& state, const ParameterMap& map,
                             std::span<const float> weights, std::span<const float> first_moment,
                             std::span<const float> second_moment);

// The step-N folder that `path` means: itself, or the one of the largest N in it or in its
// "checkpoints". Throws Error(usage) if there is none.
std::string find_checkpoint(const std::string& path);

// Both take a step-N folder and throw Error(format) for a damaged one.
CheckpointState read_checkpoint_state(const std::string& folder);
void read_checkpoint_arrays(const std::string& folder, const ParameterMap& map, std::span<float> weights,
                            std::span<float> first_moment, std::span<float> second_moment);

// Removes the oldest step-N below `folder` until `keep` of those up to `newest` are left; 0 keeps
// all. Later ones, of a run that this one began in the middle of, stay.
void remove_old_checkpoints(const std::string& folder, int64_t keep, int64_t newest);

}  // namespace weft
