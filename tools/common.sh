# Shared by the scripts of this folder: where things are, how to say something, how to build.
# Source it; it changes into the project folder.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
export DEBIAN_FRONTEND=noninteractive

say() { printf 'weft: %s\n' "$*"; }
fail() {
  printf 'weft: error: %s\n' "$*" >&2
  exit 1
}

# Two compile jobs at most: a source on libtorch takes well above 1 GB.
jobs=$(nproc 2>/dev/null || echo 1)
[ "$jobs" -le 2 ] || jobs=2

# configure FOLDER CMAKE_ARGUMENT...: runs cmake unless the folder is configured with these very arguments.
# Ninja itself configures again when a CMake file changes. Several sources are compiled at once (a unity build): all of it
# takes half the time so, and what is left out of a source's includes is found by `make test-full`.
configure() {
  local folder=$1
  shift
  set -- -DCMAKE_UNITY_BUILD=ON "$@"
  if [ -f "$folder/build.ninja" ] && [ "$(cat "$folder/weft-arguments" 2>/dev/null)" = "$root $*" ]; then
    return
  fi
  say "configuring $folder ($*)"
  cmake -S . -B "$folder" -G Ninja "$@" >"$folder.log" 2>&1 || {
    cat "$folder.log" >&2
    rm -f "$folder.log"
    fail "cmake could not configure $folder; see above"
  }
  rm -f "$folder.log"
  printf '%s' "$root $*" >"$folder/weft-arguments"
}

# compile FOLDER [TARGET...]
compile() {
  local folder=$1
  shift
  NINJA_STATUS='[%f/%t, %es] ' ninja -C "$folder" -j "$jobs" "$@"
}

minutes_since() { printf '%dm %02ds' $((($SECONDS - $1) / 60)) $((($SECONDS - $1) % 60)); }
