#!/usr/bin/env bash
# Builds and runs the benchmarks under bench/, one program after the other. Arguments go to each of them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

configure build-bench -DCMAKE_BUILD_TYPE=RelWithDebInfo -DWEFT_TESTS=OFF -DWEFT_BENCH=ON
say "building the benchmarks into build-bench/"
compile build-bench
shopt -s nullglob
programs=(build-bench/bench/*_bench)
[ ${#programs[@]} -gt 0 ] || fail "there are no benchmarks yet (bench/*_bench.cc)"
for program in "${programs[@]}"; do
  say "running $program"
  "$program" "$@"
done
