// What bench.cc and bench_methods.cc share: the options of weft bench.
#pragma once

#include <string>
#include <vector>

#include "cli/attention_timing.h"
#include "cli/command.h"
#include "cli/problem_options.h"

namespace weft::cli {

struct BenchOptions {
  std::string what;
  std::string method;   // attention; empty: zigzag
  std::string methods;  // methods: names with commas; empty: all
  int64_t seconds = 0;  // attention; 0: 5
  int64_t repeat = 0;   // methods; 0: 3
  ProblemOptions problem;
};

// The ring of one rank that a problem is compared with. `options` are checked.
Schedule alone_for(ProblemOptions options);

// weft bench methods.
int bench_methods(const BenchOptions& options, Context& context);

// Lengths of packed documents with a long tail, `tokens` in all: from 32 tokens on, a document is longer than x with
// probability about 32 / x, so that short and long documents have about as many tokens. The same on every machine.
std::vector<int64_t> long_tail_lengths(int64_t tokens, int64_t seed);

}  // namespace weft::cli
