#include "weft/train/evaluate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "weft/base/digest.h"
#include "weft/base/error.h"
#include "weft/data/packing.h"
#include "weft/files/safetensors.h"
#include "weft/model/llama.h"
#include "weft/train/local_rows.h"
#include "weft/train/plan_board.h"
#include "weft/train/ranks.h"
#include "weft/train/trainer.h"

namespace weft {

namespace {

void write_dump(const std::string& path, const std::vector<PackedSequence>& sequences, int64_t tokens) {
  std::vector<int64_t> ids, positions, labels;
  for (const PackedSequence& s : sequences) {
    ids.insert(ids.end(), s.ids.begin(), s.ids.end());
    positions.insert(positions.end(), s.positions.begin(), s.positions.end());
    labels.insert(labels.end(), s.labels.begin(), s.labels.end());
  }
  std::vector<int64_t> shape = {tokens};
  if (sequences.size() > 1) shape.insert(shape.begin(), static_cast<int64_t>(sequences.size()));
  write_safetensors(path,
                    {{"input_ids", StoredType::i64, shape, ids.data()},
                     {"position_ids", StoredType::i64, shape, positions.data()},
                     {"labels", StoredType::i64, shape, labels.data()}},
                    {{"labels", "already shifted: the token after each input id, -100 for none"}});
}

}  // namespace

EvalResult evaluate(const EvalOptions& options, const PlanFactory& factory, const StopFlag& interrupt,
                    Processes* processes) {
  // The trainer's limits are right here too.
  TrainOptions limits;
  limits.text = options.text;
  limits.dtype = options.dtype;
  limits.ranks = options.ranks;
  limits.tokens = options.tokens;
  limits.sequences_per_step = options.sequences;
  limits.check();

  const ModelConfig config = read_config(options.model + "/config.json");
  if (config.vocab_size < kByteVocabulary) {
    throw Error(ErrorCode::usage, options.model + " has a vocabulary of " + std::to_string(config.vocab_size) +
                                      "; byte tokens need at least " + std::to_string(kByteVocabulary));
  }
  const ParameterMap map(config);
  at::Tensor weights = at::zeros({map.size()}, at::kFloat);
  map.load(options.model, {weights.mutable_data_ptr<float>(), static_cast<size_t>(map.size())});

  Corpus corpus(options.text);
  Packer packer(corpus, options.tokens, options.seed);
  std::vector<PackedSequence> sequences;
  int64_t count = 0;
  for (int64_t i = 0; i < options.sequences; ++i) {
    sequences.push_back(packer.next());
    count += sequences.back().label_count;
  }
  const std::unique_ptr<RankGroup> made = make_rank_group(options.ranks, processes);
  RankGroup& group = *made;
  const int first = static_cast<int>(group.here().begin);
  if (processes) {
    group.agree(first, Digest().add(corpus.fingerprint()).value(), "text");
    group.agree(first, Digest().add(config_json(config)).value(), "model");
    const std::string_view bytes(static_cast<const char*>(weights.const_data_ptr()), weights.nbytes());
    group.agree(first, Digest().add(bytes).value(), "weights");
  }
  if (!options.dump.empty() && first == 0) write_dump(options.dump, sequences, options.tokens);
  if (count == 0) {
    throw Error(ErrorCode::usage,
                "no token of " + options.text + " has a label: all its documents end after one token");
  }

  EvalResult result;
  result.tokens = count;
  PlanBoard board(factory, group);
  const auto work = [&](int rank) {
    const at::NoGradGuard no_grad;  // per thread
    const Llama model(config, weights, at::Tensor(), options.dtype == DType::bf16 ? at::kBFloat16 : at::kFloat);
    double loss = 0;
    int64_t labels = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const SequenceShape shape =
          sequence_shape(config, sequences[i].document_lengths, options.ranks, options.dtype, false);
      const auto plan = board.take(rank, static_cast<int64_t>(i), shape);
      const LocalRows rows(sequences[i], plan->token_indices(rank));
      const at::Tensor hidden = hidden_by_plan(model, rows, *plan, rank);
      loss += model.loss(hidden, rows.labels, 1 / static_cast<double>(count)).item<double>();
      labels += rows.label_count;
    }
    const double total = group.all_reduce_sum(rank, loss);
    WEFT_CHECK(group.all_reduce_sum(rank, static_cast<double>(labels)) == static_cast<double>(count));
    if (rank == first) result.loss = total;
  };
  run_ranks(
      group, interrupt, [&] { board.abort(); }, work);
  return result;
}

}  // namespace weft
