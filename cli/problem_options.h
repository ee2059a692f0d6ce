// The options that describe one attention problem, shared by show, verify, check and bench.
//
//   ProblemOptions options;
//   add_problem_options(command, options);
//   ...                                    // once the arguments are read:
//   options.check();                       // what the options say together
//   Mask mask = options.mask();
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "weft/base/dtype.h"
#include "weft/mask/mask.h"
#include "weft/schedule/layer.h"

namespace weft::cli {

inline constexpr Limits kRankLimits{.min = 1, .max = 65536};
inline constexpr Limits kTokenLimits{.min = 1, .max = (int64_t{1} << 31) - 1};
inline constexpr Limits kHeadLimits{.min = 1, .max = 65536};
inline constexpr Limits kHeadDimLimits{.min = 1, .max = 65536};

struct ProblemOptions {
  int64_t ranks = 0;             // 0: not given
  int64_t tokens = 0;            // 0: not given; after check() the length of the sequence
  std::vector<int64_t> docs;     // empty: one document
  int64_t kv_tokens = 0;         // 0: keys are the queries' tokens, self-attention; after check() the number of keys
  std::vector<int64_t> kv_docs;  // of the keys, one for each of docs
  MaskRule rule{.causal = true};
  int64_t heads = 8;
  int64_t kv_heads = 0;   // 0: not given; after check() set
  int64_t head_dim = 64;  // of q, k and v; after check() key_dim and value_dim are set
  int64_t key_dim = 0;    // of q and k; 0: head_dim
  int64_t value_dim = 0;  // of v; 0: head_dim
  Layer layer = Layer::softmax;
  int64_t key_heads = 0;  // of linear layers: 0: not given, as many as heads
  int64_t householders = 1;
  bool initial_states = false, final_states = false;
  std::vector<int64_t> state_positions;
  DType dtype = DType::fp32;
  std::optional<DType> wire;  // not given: the accumulator of dtype
  int64_t seed = 0;
  double scale = 0;    // 0: 1 / sqrt(head_dim)
  std::string layout;  // empty: the method's own
  std::map<std::string, std::string> method_options;
  bool backward = false;
  bool canonical = false;
  bool json = false;

  // Checks what single options cannot, and fills in `tokens`, `kv_tokens` where keys are given apart, and `kv_heads`.
  // Throws Error(usage).
  void check();
  // After check(): the packed documents, one for a single sequence; and the mask over them.
  std::vector<int64_t> lengths() const;
  std::vector<int64_t> kv_lengths() const;
  bool cross() const { return kv_tokens > 0; }  // keys are another sequence
  Mask mask() const;
};

// Adds all of them to a command's table; `options` must outlive it. The setters check each option
// by itself.
void add_problem_options(Command& command, ProblemOptions& options);

// The method, by position or as --method NAME.
void add_method_name(Command& command, const std::string& help, std::string* method);

// The number of ranks of a command that may run on several processes: theirs, else `given`, else (given is 0) `otherwise`.
// Throws Error(usage) when both are given and differ.
int64_t ranks_of(const Context& context, int64_t given, int64_t otherwise = 0);

// Parts of it, for commands that take some only.
void add_ranks_option(Command& command, int64_t* ranks);
void add_method_options(Command& command, std::string* layout, std::map<std::string, std::string>* options);
void add_json_option(Command& command, bool* json);

}  // namespace weft::cli
