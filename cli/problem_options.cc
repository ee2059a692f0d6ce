#include "cli/problem_options.h"

#include <algorithm>

#include "weft/layout/layout.h"

namespace weft::cli {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 50;

void add_method_option(std::string_view given, std::map<std::string, std::string>& options) {
  const size_t equals = given.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw Error(ErrorCode::usage,
                "--option: " + in_quotes(given) + " is not of the form key=value; weft methods lists the keys");
  }
  const std::string key(given.substr(0, equals));
  if (!options.emplace(key, given.substr(equals + 1)).second) {
    throw Error(ErrorCode::usage, "--option: " + in_quotes(key) + " is given twice; give it once");
  }
}

// What may travel follows from the type that is summed in.
void check_wire(DType dtype, DType wire) {
  const DType accumulator = accumulator_of(dtype);
  if (wire == accumulator) return;
  const std::string start = "--wire-dtype " + std::string(name_of(wire));
  if (dtype == DType::fp64) {
    throw Error(ErrorCode::usage, start + ": partial results of --dtype fp64 travel as fp64; leave --wire-dtype out");
  }
  if (size_of(wire) > size_of(accumulator)) {
    throw Error(ErrorCode::usage, start + " is wider than " + std::string(name_of(accumulator)) +
                                      ", the accumulator of --dtype " + std::string(name_of(dtype)) +
                                      "; use fp32, bf16 or fp16");
  }
}

// The tokens of documents; `given` is what the option for their number says, 0 for nothing.
int64_t sum_of(const std::vector<int64_t>& docs, const std::string& docs_name, const std::string& tokens_name,
               int64_t given) {
  int64_t sum = 0;
  for (const int64_t length : docs) {
    sum += length;  // at most 2^26 entries of less than 2^31: cannot overflow
    if (sum > kTokenLimits.max) {
      throw Error(ErrorCode::usage,
                  docs_name + ": the documents have more than " + std::to_string(kTokenLimits.max) + " tokens in all");
    }
  }
  if (given != 0 && given != sum) {
    throw Error(ErrorCode::usage, tokens_name + " " + std::to_string(given) + " but the documents have " +
                                      std::to_string(sum) + " in all; leave " + tokens_name + " out");
  }
  return sum;
}

void check_cross(const ProblemOptions& options) {
  const size_t queries = options.lengths().size(), keys = options.kv_lengths().size();
  if (queries != keys) {
    throw Error(ErrorCode::usage, "--docs and --kv-docs: " + std::to_string(queries) + " query and " +
                                      std::to_string(keys) +
                                      " key documents; give as many of both, the first sees the first");
  }
  if (options.rule != MaskRule{}) {
    throw Error(ErrorCode::usage, "--mask " + to_string(options.rule) +
                                      " compares positions of one sequence, and keys of --kv-tokens or --kv-docs are "
                                      "another; give --mask full");
  }
}

}  // namespace

void ProblemOptions::check() {
  if (ranks == 0) throw Error(ErrorCode::usage, "--ranks is missing; give a number from 1 to 65536");
  if (docs.empty() && tokens == 0) {
    throw Error(ErrorCode::usage, "--tokens is missing; give the length of the sequence, or its documents with --docs");
  }
  if (!docs.empty()) {
    tokens = sum_of(docs, "--docs", "--tokens", tokens);
  }
  if (!kv_docs.empty()) kv_tokens = sum_of(kv_docs, "--kv-docs", "--kv-tokens", kv_tokens);
  if (cross()) check_cross(*this);
  if (wire) check_wire(dtype, *wire);
  if (canonical && wire && *wire != accumulator_of(dtype)) {
    throw Error(ErrorCode::usage, "--wire-dtype " + std::string(name_of(*wire)) +
                                      " and --canonical: exact sums travel as they are; leave one of them out");
  }
  if (kv_heads == 0) kv_heads = heads;
  if (key_dim == 0) key_dim = head_dim;
  if (value_dim == 0) value_dim = head_dim;
  if (heads % kv_heads != 0) {
    throw Error(ErrorCode::usage, "--heads " + std::to_string(heads) + " is not a multiple of --kv-heads " +
                                      std::to_string(kv_heads) +
                                      "; each key-value head serves the same number of query heads");
  }
  // Bytes and pairs are counted in 64 bits; these bounds leave room for sums over fields and ranks.
  const int64_t most = std::max(tokens, kv_tokens);
  const int64_t columns = std::max(key_dim, value_dim);
  if (most > kMostElements / heads / columns) {
    throw Error(ErrorCode::usage, (most > tokens ? "--kv-tokens " : "--tokens ") + std::to_string(most) +
                                      " with --heads " + std::to_string(heads) + " and --head-dim " +
                                      std::to_string(columns) + ": more than 2^50 elements; use fewer of either");
  }
  int64_t work = 0;
  if (__builtin_mul_overflow(mask().area(), heads, &work)) {
    throw Error(ErrorCode::usage, "--tokens " + std::to_string(tokens) + " with --heads " + std::to_string(heads) +
                                      ": more than 2^63 pairs to attend; use fewer of either");
  }
}

std::vector<int64_t> ProblemOptions::lengths() const { return docs.empty() ? std::vector<int64_t>{tokens} : docs; }

std::vector<int64_t> ProblemOptions::kv_lengths() const {
  if (!cross()) return lengths();
  return kv_docs.empty() ? std::vector<int64_t>{kv_tokens} : kv_docs;
}

Mask ProblemOptions::mask() const {
  if (cross()) return Mask::cross_documents(lengths(), kv_lengths());
  return docs.empty() ? Mask::of(tokens, rule) : Mask::documents(docs, rule);
}

void add_method_name(Command& command, const std::string& help, std::string* method) {
  command.positional("method", help, method);
  command.custom({.name = "--method",
                  .value = "NAME",
                  .help = "the same as naming it without --method",
                  .set = [method](std::string_view given) { *method = given; }});
}

int64_t ranks_of(const Context& context, int64_t given, int64_t otherwise) {
  if (!context.processes) return given > 0 ? given : otherwise;
  const int64_t count = context.processes->endpoint().ranks();
  if (given == 0 || given == count) return count;
  throw Error(ErrorCode::usage, "--ranks " + std::to_string(given) + " on " + std::to_string(count) +
                                    " processes: each process is one rank; leave --ranks out, or start " +
                                    std::to_string(given) + " processes");
}

void add_ranks_option(Command& command, int64_t* ranks) {
  command.count("--ranks", "N", "number of ranks, 1 to 65536", ranks, kRankLimits);
}

void add_method_options(Command& command, std::string* layout, std::map<std::string, std::string>* options) {
  command.text("--layout", "NAME", "which token lives where: " + join(layout_names()) + " (default: the method's own)",
               layout);
  command.custom({.name = "--option",
                  .value = "KEY=VALUE",
                  .help = "option of the method, see weft methods; may be repeated",
                  .repeatable = true,
                  .set = [options](std::string_view given) { add_method_option(given, *options); }});
}

void add_json_option(Command& command, bool* json) { command.flag("--json", "print one JSON document", json); }

void add_problem_options(Command& command, ProblemOptions& options) {
  ProblemOptions* const o = &options;
  command.group("Problem");
  add_ranks_option(command, &o->ranks);
  command.count("--tokens", "N", "length of the sequence; K = 1024, M = 1024^2", &o->tokens, kTokenLimits);
  command.custom({.name = "--docs",
                  .value = "LIST",
                  .help = "lengths of packed documents: 4,1,9 or @file",
                  .set = [o](std::string_view given) { o->docs = parse_list("--docs", given, kTokenLimits); }});
  command.count("--kv-tokens", "N", "keys are another sequence of N tokens (cross-attention); needs --mask full",
                &o->kv_tokens, kTokenLimits);
  command.custom({.name = "--kv-docs",
                  .value = "LIST",
                  .help = "lengths of packed documents of the keys, as many as --docs: the first sees the first",
                  .set = [o](std::string_view given) { o->kv_docs = parse_list("--kv-docs", given, kTokenLimits); }});
  command.custom({.name = "--mask",
                  .value = "MASK",
                  .help = "full, causal, window:W or causal+window:W, inside each document (default: causal)",
                  .set = [o](std::string_view given) { o->rule = parse_mask_rule(given); }});
  command.count("--heads", "N", "query heads (default: 8)", &o->heads, kHeadLimits);
  command.count("--kv-heads", "N", "key-value heads, a divisor of --heads (default: the same)", &o->kv_heads,
                kHeadLimits);
  command.count("--head-dim", "N", "columns of a head (default: 64)", &o->head_dim, kHeadDimLimits);
  command.count("--key-dim", "N", "columns of q and k where they differ from those of v", &o->key_dim, kHeadDimLimits);
  command.count("--value-dim", "N", "columns of v where they differ from those of q and k", &o->value_dim,
                kHeadDimLimits);
  command.custom({.name = "--layer",
                  .value = "LAYER",
                  .help = "softmax, or a linear layer: " + join(linear_layer_names()) + " (default: softmax)",
                  .set = [o](std::string_view given) { o->layer = layer_of(given); }});
  command.count("--key-heads", "N", "heads of q and k, of linear layers; a divisor of --heads (default: the same)",
                &o->key_heads, kHeadLimits);
  command.count("--householders", "N", "writes of a token, of layers with a delta rule: DeltaProduct (default: 1)",
                &o->householders, {.min = 1, .max = 64});
  command.flag("--initial-states", "of a linear layer: every document begins with a given state", &o->initial_states);
  command.flag("--final-states", "of a linear layer: the states after the documents are results", &o->final_states);
  command.custom(
      {.name = "--state-positions",
       .value = "LIST",
       .help = "of a linear layer: the states after these tokens of the sequence are results: 99,1999 or @file",
       .set = [o](std::string_view given) {
         o->state_positions = parse_list("--state-positions", given, {.min = 0, .max = kTokenLimits.max - 1});
       }});
  command.custom({.name = "--dtype",
                  .value = "TYPE",
                  .help = "fp64, fp32, bf16 or fp16 (default: fp32)",
                  .set = [o](std::string_view given) { o->dtype = dtype_of(given); }});
  command.custom({.name = "--wire-dtype",
                  .value = "TYPE",
                  .help = "of partial outputs and gradient sums in messages, as bf16 (default: fp32; fp64 for fp64)",
                  .set = [o](std::string_view given) { o->wire = dtype_of(given); }});
  command.custom({.name = "--scale",
                  .value = "X",
                  .help = "factor of q.k (default: 1 / sqrt(head dim))",
                  .set = [o](std::string_view given) {
                    o->scale = parse_double("--scale", given);
                    if (o->scale == 0) throw Error(ErrorCode::usage, "--scale: 0 is not allowed; give another number");
                  }});
  command.flag("--backward", "the backward pass too", &o->backward);
  command.flag("--canonical",
               "the same bits for every method, layout and number of ranks; shards are made of whole tiles",
               &o->canonical);
  command.group("Method");
  add_method_options(command, &o->layout, &o->method_options);
  command.group("Other");
  command.count("--seed", "N", "of everything random (default: 0)", &o->seed, {});
  add_json_option(command, &o->json);
}

}  // namespace weft::cli
