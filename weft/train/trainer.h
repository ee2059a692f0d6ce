// Trains a Llama-family model on the text of a folder, each sequence split over all ranks.
//
//   TrainOptions options;
//   options.text = "/usr/lib/python3.11";
//   options.out = "out";
//   options.ranks = 2;
//   TrainSummary done = train(options, factory, [](const StepReport& r) { print(r); }, interrupt);
//
// Ranks are threads of this process, or one in each of several processes. Threads share one fp32 copy of the weights and of
// the optimiser's state; processes have one each, and make the same updates. Each rank has its own gradients, which are added
// in rank order and divided once by the number of labelled tokens of the whole step. So the numbers do not depend on the
// ranks but for rounding, and the same call gives the same bits again, on threads or processes.
//
// Writes out/checkpoints/step-N (see checkpoint.h) and, at the end, out/model (a Hugging Face
// folder with tokenizer).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "weft/base/dtype.h"
#include "weft/base/stop.h"
#include "weft/model/config.h"
#include "weft/train/adamw.h"
#include "weft/train/sequence_plan.h"
#include "weft/transport/processes.h"

namespace weft {

struct TrainOptions {
  std::string text;    // folder or file
  std::string out;     // folder; empty: nothing is written
  std::string init;    // Hugging Face folder to start from; its config replaces `model`
  std::string resume;  // checkpoint, or a folder that has some (the latest is used)
  ModelConfig model = model_preset("small");
  DType dtype = DType::fp32;  // of activations: fp32 or bf16
  int ranks = 1;
  int64_t tokens = 8192;           // of one packed sequence, over all ranks
  int64_t sequences_per_step = 1;  // gradients are accumulated over them
  int64_t steps = 100;             // counted from the start of the first run
  double lr = 3e-3;
  double final_lr_share = 0.1;
  int64_t warmup_steps = 20;
  double clip = 1.0;  // largest global norm of the gradient; 0: no clipping
  AdamW adam;
  uint64_t seed = 0;
  int64_t checkpoint_every = 100;  // 0: only after the last step
  int64_t keep_checkpoints = 3;    // older ones of this run are removed; 0: keep all
  // Remove the checkpoints that another run has left in `out`; without it such a folder is refused.
  bool overwrite = false;
  // Kept in checkpoints for the caller, e.g. the name of the method.
  std::map<std::string, std::string> notes;

  // Throws Error(usage) naming the first value that is not allowed.
  void check() const;
};

struct StepReport {
  int64_t step = 0;  // 1 .. steps
  int64_t steps = 0;
  double loss = 0;       // mean over the step's labelled tokens, before the update
  double grad_norm = 0;  // global, before clipping
  double learning_rate = 0;
  int64_t tokens = 0;  // labelled tokens of the step
  double seconds = 0;
  double tokens_per_second = 0;  // all tokens of the step, labelled or not, over all ranks
  double waiting_share = 0;      // of the ranks' time, waiting for each other
};

struct TrainSummary {
  int64_t first_step = 1;  // 1 unless resumed
  int64_t steps = 0;
  double first_loss = 0;
  double last_loss = 0;
  int64_t parameters = 0;
  double seconds = 0;
  std::string model_folder;  // empty if nothing was written
  std::string last_checkpoint;
};

// Calls `on_step` after each step, on a rank's thread while the others wait; with `processes` only on rank 0, which alone
// writes files and knows the losses of the summary. Throws what the first
// failing rank threw; Error(stopped) with the last checkpoint's name when `interrupt` was raised.
TrainSummary train(const TrainOptions& options, const PlanFactory& factory,
                   const std::function<void(const StepReport&)>& on_step, const StopFlag& interrupt,
                   Processes* processes = nullptr);

// The options that a checkpoint was written with, to be changed (ranks, steps, out, ...) and given
// to train() with `resume` set. `folder` as TrainOptions::resume.
TrainOptions options_of_checkpoint(const std::string& folder);

}  // namespace weft
