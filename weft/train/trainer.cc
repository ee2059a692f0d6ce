#include "weft/train/trainer.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "weft/base/digest.h"
#include "weft/base/error.h"
#include "weft/base/text.h"
#include "weft/data/corpus.h"
#include "weft/data/packing.h"
#include "weft/data/tokenizer.h"
#include "weft/files/atomic_file.h"
#include "weft/model/llama.h"
#include "weft/train/checkpoint.h"
#include "weft/train/local_rows.h"
#include "weft/train/plan_board.h"
#include "weft/train/ranks.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::span<float> span_of(at::Tensor& flat) {
  return {flat.mutable_data_ptr<float>(), static_cast<size_t>(flat.numel())};
}

// The sum of squares in a form that does not depend on the number of ranks: pieces of fixed size,
// added in order.
class SquareSum {
 public:
  explicit SquareSum(int64_t size) : size_(size), pieces_(static_cast<size_t>((size + kPiece - 1) / kPiece)) {}

  // Each rank, with the same values.
  void add_part(int64_t rank, int64_t ranks, std::span<const float> values) {
    const int64_t count = static_cast<int64_t>(pieces_.size());
    for (int64_t piece = count * rank / ranks; piece < count * (rank + 1) / ranks; ++piece) {
      double sum = 0;
      const int64_t end = std::min(size_, (piece + 1) * kPiece);
      for (int64_t i = piece * kPiece; i < end; ++i) {
        const double x = values[static_cast<size_t>(i)];
        sum += x * x;
      }
      pieces_[static_cast<size_t>(piece)] = sum;
    }
  }
  // After all ranks have added their part and met at a barrier.
  double total() const {
    double sum = 0;
    for (const double piece : pieces_) sum += piece;
    return sum;
  }

 private:
  static constexpr int64_t kPiece = 1 << 14;
  int64_t size_;
  std::vector<double> pieces_;
};

class TrainingRun {
 public:
  TrainingRun(const TrainOptions& options, const PlanFactory& factory,
              const std::function<void(const StepReport&)>& on_step, Processes* processes)
      : options_(options),
        on_step_(on_step),
        group_(make_rank_group(options.ranks, processes)),
        here_(group_->here()),
        start_(starting_state()),
        map_(start_.options.model),
        corpus_(options.text),
        packer_(corpus_, options.tokens, options.seed),
        weights_(at::zeros({map_.size()}, at::kFloat)),
        first_moment_(at::zeros({map_.size()}, at::kFloat)),
        second_moment_(at::zeros({map_.size()}, at::kFloat)),
        board_(factory, *group_),
        squares_(map_.size()) {
    options_.model = start_.options.model;
    fill_arrays();
    if (processes) agree();  // and all have read what rank 0 may now remove
    if (writes()) prepare_out();
  }

  TrainSummary run(const StopFlag& interrupt) {
    const Clock::time_point begin = Clock::now();
    summary_.first_step = start_.step + 1;
    summary_.steps = options_.steps;
    summary_.parameters = options_.model.parameter_count();
    try {
      run_ranks(
          *group_, interrupt, [this] { board_.abort(); }, [this](int rank) { work(rank); });
    } catch (const Error& error) {
      if (error.code() != ErrorCode::stopped || !interrupt.raised()) throw;
      throw Error(ErrorCode::stopped, summary_.last_checkpoint.empty()
                                          ? "interrupted before the first checkpoint; nothing was written"
                                          : "interrupted; the last checkpoint is " + summary_.last_checkpoint +
                                                ", go on with --resume " + summary_.last_checkpoint);
    }
    if (writes()) write_model();
    summary_.seconds = seconds_since(begin);
    return summary_;
  }

 private:
  // Where the run begins: a checkpoint, or step 0 of a given or new model.
  CheckpointState starting_state() {
    CheckpointState state;
    if (!options_.resume.empty()) {
      resumed_from_ = find_checkpoint(options_.resume);
      state = read_checkpoint_state(resumed_from_);
      if (state.step >= options_.steps) {
        throw Error(ErrorCode::usage, resumed_from_ + " has done " + std::to_string(state.step) +
                                          " steps already; give more than that with --steps");
      }
    } else if (!options_.init.empty()) {
      state.options.model = read_config(options_.init + "/config.json");
    } else {
      state.options.model = options_.model;
    }
    ModelConfig& model = state.options.model;
    if (model.vocab_size < kByteVocabulary) {
      throw Error(ErrorCode::usage, "the model has a vocabulary of " + std::to_string(model.vocab_size) +
                                        "; byte tokens need at least " + std::to_string(kByteVocabulary));
    }
    model.max_position_embeddings = std::max(model.max_position_embeddings, options_.tokens);
    return state;
  }

  void fill_arrays() {
    if (!resumed_from_.empty()) {
      if (start_.corpus_fingerprint != corpus_.fingerprint()) {
        throw Error(ErrorCode::usage, options_.text + " is not the text that " + resumed_from_ +
                                          " was trained on, so its place there means nothing; give that text, or "
                                          "start a new run from the model with --init " +
                                          resumed_from_);
      }
      packer_.seek(start_.data);
      read_checkpoint_arrays(resumed_from_, map_, span_of(weights_), span_of(first_moment_), span_of(second_moment_));
    } else if (!options_.init.empty()) {
      map_.load(options_.init, span_of(weights_));
    } else {
      map_.initialise(span_of(weights_), options_.seed);
    }
  }

  // Files are written in the process of rank 0.
  bool writes() const { return here_.begin == 0; }

  // Processes have read the text and the model apart from each other.
  void agree() {
    const int rank = static_cast<int>(here_.begin);
    group_->agree(rank, Digest().add(corpus_.fingerprint()).value(), "text");
    group_->agree(rank, Digest().add(config_json(options_.model)).value(), "model");
    const std::span<float> weights = span_of(weights_);
    const std::string_view bytes(reinterpret_cast<const char*>(weights.data()), weights.size_bytes());
    group_->agree(rank, Digest().add(start_.step).add(options_.steps).add(bytes).value(), "weights or steps");
  }

  // Before the first step, so that a folder that cannot be written does not cost the run.
  void prepare_out() {
    if (options_.out.empty()) return;
    checkpoints_ = options_.out + "/checkpoints";
    make_folder(checkpoints_);
    if (!resumed_from_.empty()) {
      summary_.last_checkpoint = resumed_from_;
    } else if (options_.overwrite) {
      std::filesystem::remove_all(checkpoints_);
      make_folder(checkpoints_);
    } else if (!std::filesystem::is_empty(checkpoints_)) {
      throw Error(ErrorCode::usage, options_.out + " holds checkpoints of another run; go on with --resume " +
                                        options_.out + ", or give another folder with --out");
    }
    write_file(options_.out + "/.probe", "");
    std::filesystem::remove(options_.out + "/.probe");
  }

  void work(int rank) {
    at::Tensor gradients = at::zeros({map_.size()}, at::kFloat);
    const Llama model(options_.model, weights_, gradients, options_.dtype == DType::bf16 ? at::kBFloat16 : at::kFloat);
    for (int64_t step = start_.step + 1; step <= options_.steps; ++step) {
      const Clock::time_point begin = Clock::now();
      const double waited_before = group_->waiting_seconds(rank);
      if (rank == here_.begin) pack_step();
      group_->barrier(rank);
      gradients.zero_();
      double loss = 0, waited_inside = 0;
      int64_t labels = 0;
      for (size_t i = 0; i < sequences_.size(); ++i) {
        const int64_t number = step * options_.sequences_per_step + static_cast<int64_t>(i);
        const auto plan = board_.take(rank, number, shape_of(sequences_[i]));
        const LocalRows rows(sequences_[i], plan->token_indices(rank));
        const at::Tensor hidden = hidden_by_plan(model, rows, *plan, rank);
        const at::Tensor part = model.loss(hidden, rows.labels, 1 / static_cast<double>(std::max<int64_t>(labels_, 1)));
        part.backward();
        loss += part.item<double>();
        labels += rows.label_count;
        waited_inside += plan->waiting_seconds(rank);
      }
      loss = group_->all_reduce_sum(rank, loss);
      // A plan that loses or doubles rows would train something else, silently.
      WEFT_CHECK(group_->all_reduce_sum(rank, static_cast<double>(labels)) == static_cast<double>(labels_));
      group_->all_reduce_sum(rank, span_of(gradients));
      const double norm = update(rank, step, gradients);
      const double waited = group_->all_reduce_sum(rank, group_->waiting_seconds(rank) - waited_before + waited_inside);
      if (rank == 0) finish_step(step, loss, norm, seconds_since(begin), waited);
    }
  }

  SequenceShape shape_of(const PackedSequence& sequence) const {
    return sequence_shape(options_.model, sequence.document_lengths, options_.ranks, options_.dtype, true);
  }

  void pack_step() {
    sequences_.clear();
    labels_ = 0;
    for (int64_t i = 0; i < options_.sequences_per_step; ++i) {
      sequences_.push_back(packer_.next());
      labels_ += sequences_.back().label_count;
    }
  }

  // Returns the gradient's norm. Each rank updates its part of the arrays that the ranks here share.
  double update(int rank, int64_t step, at::Tensor& gradients) {
    const int64_t sharing = here_.size(), part = rank - here_.begin;
    squares_.add_part(part, sharing, span_of(gradients));
    group_->barrier(rank);
    const double norm = std::sqrt(squares_.total());
    if (!std::isfinite(norm)) {
      throw Error(ErrorCode::wrong, "the gradient of step " + std::to_string(step) +
                                        " is not finite; try a smaller learning rate (now " +
                                        format_double(options_.lr) + ")");
    }
    const double scale = options_.clip > 0 && norm > options_.clip ? options_.clip / norm : 1;
    const LearningRate rate = learning_rate();
    const int64_t size = map_.size();
    adamw_update(options_.adam, map_, {size * part / sharing, size * (part + 1) / sharing}, step, rate.at(step), scale,
                 {span_of(weights_), span_of(gradients), span_of(first_moment_), span_of(second_moment_)});
    group_->barrier(rank);
    return norm;
  }

  LearningRate learning_rate() const {
    return {.peak = options_.lr,
            .warmup_steps = options_.warmup_steps,
            .steps = options_.steps,
            .final_share = options_.final_lr_share};
  }

  // On rank 0. The others may begin the next step, but not change the arrays: for that they need
  // rank 0 at the next barriers.
  void finish_step(int64_t step, double loss, double norm, double seconds, double waited) {
    StepReport report;
    report.step = step;
    report.steps = options_.steps;
    report.loss = loss;
    report.grad_norm = norm;
    report.learning_rate = learning_rate().at(step);
    report.tokens = labels_;
    report.seconds = seconds;
    report.tokens_per_second = static_cast<double>(options_.tokens * options_.sequences_per_step) / seconds;
    report.waiting_share = waited / (seconds * options_.ranks);
    if (step == start_.step + 1) summary_.first_loss = loss;
    summary_.last_loss = loss;
    if (on_step_) on_step_(report);

    const bool due = options_.checkpoint_every > 0 && step % options_.checkpoint_every == 0;
    if (options_.out.empty() || (!due && step != options_.steps)) return;
    CheckpointState state;
    state.step = step;
    state.data = packer_.position();
    state.corpus_fingerprint = corpus_.fingerprint();
    state.options = options_;
    summary_.last_checkpoint =
        write_checkpoint(checkpoints_, state, map_, span_of(weights_), span_of(first_moment_), span_of(second_moment_));
    remove_old_checkpoints(checkpoints_, options_.keep_checkpoints, step);
  }

  void write_model() {
    if (options_.out.empty()) return;
    AtomicFolder folder(options_.out + "/model");
    map_.save(folder.path(), options_.model, span_of(weights_));
    write_tokenizer(folder.path());
    folder.commit();
    summary_.model_folder = options_.out + "/model";
  }

  TrainOptions options_;
  const std::function<void(const StepReport&)>& on_step_;
  std::string resumed_from_;  // a step-N folder, or empty
  const std::unique_ptr<RankGroup> group_;
  const Range here_;  // ranks of this process
  CheckpointState start_;
  ParameterMap map_;
  Corpus corpus_;
  Packer packer_;
  at::Tensor weights_, first_moment_, second_moment_;  // flat, shared by the ranks here
  PlanBoard board_;
  SquareSum squares_;
  std::string checkpoints_;
  std::vector<PackedSequence> sequences_;  // of the step under way
  int64_t labels_ = 0;                     // in all of them
  TrainSummary summary_;
};

}  // namespace

void TrainOptions::check() const {
  const auto require = [](bool fine, const std::string& message) {
    if (!fine) throw Error(ErrorCode::usage, message);
  };
  const auto at_least = [&](const char* name, int64_t value, int64_t min) {
    require(value >= min,
            std::string(name) + " is " + std::to_string(value) + "; it must be " + std::to_string(min) + " or more");
  };
  const auto within = [&](const char* name, double value, double min, double max) {
    require(value >= min && value <= max, std::string(name) + " is " + format_double(value) + "; it must be from " +
                                              format_double(min) + " to " + format_double(max));
  };
  require(!text.empty(), "no text was given; name a folder with --text");
  require(init.empty() || resume.empty(), "--init and --resume exclude each other; a checkpoint has its own model");
  require(dtype == DType::fp32 || dtype == DType::bf16,
          "training in " + std::string(name_of(dtype)) + " is not supported; use fp32 or bf16");
  at_least("ranks", ranks, 1);
  require(ranks <= 4096, "ranks is " + std::to_string(ranks) + "; 4096 or fewer threads can train");
  at_least("tokens", tokens, 2);
  require(tokens <= int64_t{1} << 31, "tokens is above 2^31; use a shorter sequence");
  at_least("sequences_per_step", sequences_per_step, 1);
  require(sequences_per_step <= 1 << 20, "sequences_per_step is above 2^20; use fewer");
  at_least("steps", steps, 1);
  at_least("warmup_steps", warmup_steps, 0);
  at_least("checkpoint_every", checkpoint_every, 0);
  at_least("keep_checkpoints", keep_checkpoints, 0);
  within("lr", lr, 0, 100);
  within("final_lr_share", final_lr_share, 0, 1);
  within("clip", clip, 0, 1e30);
  within("beta1", adam.beta1, 0, 0.999999);
  within("beta2", adam.beta2, 0, 0.999999);
  within("eps", adam.eps, 1e-30, 1);
  within("weight_decay", adam.weight_decay, 0, 100);
  if (init.empty() && resume.empty()) model.check();
}

TrainSummary train(const TrainOptions& options, const PlanFactory& factory,
                   const std::function<void(const StepReport&)>& on_step, const StopFlag& interrupt,
                   Processes* processes) {
  options.check();
  TrainingRun run(options, factory, on_step, processes);
  return run.run(interrupt);
}

TrainOptions options_of_checkpoint(const std::string& folder) {
  const std::string found = find_checkpoint(folder);
  TrainOptions options = read_checkpoint_state(found).options;
  options.resume = found;
  return options;
}

}  // namespace weft
