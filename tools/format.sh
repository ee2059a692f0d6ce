#!/usr/bin/env bash
# Formats all C++ files in place. Version 14 only: others format differently.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for tool in clang-format-14 clang-format; do
  if "$tool" --version 2>/dev/null | grep -q 'version 14\.'; then
    find weft cli python tests bench -name '*.h' -o -name '*.cc' | xargs "$tool" -i
    say "formatted"
    exit 0
  fi
done
fail "clang-format 14 is not there; on Debian 12: apt-get install clang-format"
