#!/usr/bin/env bash
# Builds everything and runs the tests; ctest's summary of the main build comes last.
#
#   test.sh         all tests, and under sanitizers the quick part of what has no torch
#   test.sh full    the same without shortcuts: cross products, everything without torch under both sanitizers, and every
#                   source compiled by itself
#
# Tests see WEFT_TEST_LEVEL: 0 quick (sanitizers in a normal run), 1 normal, 2 full (weft/base/test_level.h).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mode=${1:-normal}
level=1 sanitizer_level=0 sanitizer_seconds=1800
# The quick part: what reads foreign bytes, what computes on raw memory, what threads share.
asan_targets=(weft_base_test weft_files_test weft_mask_test weft_layout_test weft_schedule_test weft_kernels_test
  weft_transport_test weft_cli_test mutants_test execute_failures_test)
tsan_targets=(weft_base_test weft_schedule_test weft_transport_test execute_failures_test verify_order_test)
# A third of the time to compile; what they find mostly ends in an access that the address sanitizer finds.
skipped_checks=null,alignment,object-size,vptr
if [ "$mode" = full ]; then level=2 sanitizer_level=1 sanitizer_seconds=7200 asan_targets=() tsan_targets=() skipped_checks=; fi
# A ctest pattern for exactly these tests, whole or in halves; everything when there are none.
pattern_of() { [ $# -eq 0 ] && echo . || (IFS='|'; echo "^($*)(\.[12])?\$"); }
failed=()

run_ctest() {  # FOLDER LEVEL TESTS SECONDS_EACH
  WEFT_TEST_LEVEL=$2 ctest --test-dir "$1" -R "$3" -j "$jobs" --timeout "$4" --output-on-failure --no-tests=error
}

# gcc 12's thread sanitizer cannot place its shadow on kernels with much address randomisation.
tsan_runner() {
  local program=$1
  if setarch "$(uname -m)" -R "$program" --gtest_list_tests >/dev/null 2>&1; then
    echo "setarch $(uname -m) -R"
  elif "$program" --gtest_list_tests >/dev/null 2>&1; then
    echo env
  else
    return 1
  fi
}

begin=$SECONDS
tools/build.sh all

say "building the address and undefined-behaviour sanitizer tests into build-asan/"
configure build-asan -DWEFT_TORCH=OFF -DWEFT_SANITIZE=address -DWEFT_SANITIZE_SKIP=$skipped_checks
compile build-asan "${asan_targets[@]}"

say "building the thread sanitizer tests into build-tsan/"
configure build-tsan -DWEFT_TORCH=OFF -DWEFT_SANITIZE=thread
compile build-tsan "${tsan_targets[@]}"
if [ "$mode" = full ]; then
  say "compiling every source by itself into build-plain/, so that each includes what it uses"
  configure build-plain -DWEFT_BENCH=ON -DCMAKE_UNITY_BUILD=OFF
  compile build-plain
fi
say "everything is built after $(minutes_since $begin)"

say "running tests under the address and undefined-behaviour sanitizers"
run_ctest build-asan $sanitizer_level "$(pattern_of "${asan_targets[@]}")" $sanitizer_seconds || failed+=("address sanitizer (build-asan)")

say "running tests under the thread sanitizer"
if runner=$(tsan_runner build-tsan/layers/weft_base_test); then
  $runner env WEFT_TEST_LEVEL=$sanitizer_level ctest --test-dir build-tsan -R "$(pattern_of "${tsan_targets[@]}")" -j "$jobs" --timeout $sanitizer_seconds \
    --output-on-failure --no-tests=error || failed+=("thread sanitizer (build-tsan)")
else
  say "skipped: the thread sanitizer cannot start on this kernel (see /proc/sys/vm/mmap_rnd_bits)"
fi

say "running all tests"
run_ctest build $level . 3600 || failed+=("tests (build)")

if [ ${#failed[@]} -gt 0 ]; then
  for what in "${failed[@]}"; do printf 'weft: error: failed: %s; its report is above\n' "$what" >&2; done
  exit 1
fi
