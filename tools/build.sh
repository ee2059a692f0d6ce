#!/usr/bin/env bash
# Builds the program, build/weft, and the libraries under it; no tests. "build.sh all" builds the tests too.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

begin=$SECONDS
configure build -DCMAKE_BUILD_TYPE=RelWithDebInfo
if [ "${1:-weft}" = all ]; then
  say "building the program and all tests into build/ (up to $jobs jobs)"
  compile build
else
  say "building build/weft (up to $jobs jobs)"
  compile build weft
fi
say "built build/weft in $(minutes_since $begin); try: build/weft --help"
