#!/usr/bin/env bash
# Installs what is missing and nothing else: system packages through apt-get, Python packages into .venv.
# Safe to run again; takes well under a second when all is there.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

has_command() { command -v "$1" >/dev/null 2>&1; }

has_header() {
  if has_command g++; then
    printf '#if !__has_include(<%s>)\n#error missing\n#endif\n' "$1" | g++ -std=c++20 -E -x c++ - >/dev/null 2>&1
  else
    [ -e "/usr/include/$1" ]
  fi
}

# Prints the first Python that can make an environment for torch; fails if there is none.
find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if has_command "$candidate" && "$candidate" -c 'import sys, venv, ensurepip
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

# Prints the Debian packages of what is not there, one a line.
missing_packages() {
  has_command g++ || echo g++
  has_command cmake || echo cmake
  has_command ninja || echo ninja-build
  has_command ccache || echo ccache
  has_header gtest/gtest.h || echo libgtest-dev
  has_header benchmark/benchmark.h || echo libbenchmark-dev
  has_header CLI/CLI.hpp || echo libcli11-dev
  has_header nlohmann/json.hpp || echo nlohmann-json3-dev
  # Open MPI, for ranks in processes.
  has_command mpirun || echo openmpi-bin
  has_command mpicxx || echo libopenmpi-dev
  # An environment that is complete needs no Python that can make one.
  if [ ! -x .venv/bin/python ] && ! find_python >/dev/null; then
    echo python3
    echo python3-venv
  fi
}

# ccache only saves time, and without MPI ranks are threads of one process.
required_packages() { missing_packages | grep -vxE 'ccache|openmpi-bin|libopenmpi-dev' | tr '\n' ' ' || true; }

# fail, unless what is missing can be done without.
fail_if_required() {
  [ -z "$(required_packages)" ] || fail "$*"
  say "going on without: $(missing_packages | tr '\n' ' ')"
}

install_packages() {
  local missing apt=(apt-get)
  missing=$(missing_packages | tr '\n' ' ')
  [ -n "$missing" ] || return 0
  say "missing system packages: $missing"
  local advice="install them (these are their Debian names) and run this again"
  if ! has_command apt-get; then
    fail_if_required "no apt-get on this machine; missing: $missing- $advice"
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! has_command sudo; then
      fail_if_required "not root and no sudo; missing: $missing- $advice"
      return 0
    fi
    # Without a terminal nobody could type a password.
    if [ -t 0 ] && [ "${CI:-}" != true ]; then
      apt=(sudo DEBIAN_FRONTEND=noninteractive apt-get)
    elif sudo -n true 2>/dev/null; then
      apt=(sudo -n DEBIAN_FRONTEND=noninteractive apt-get)
    else
      fail_if_required "not root, and sudo asks for a password; missing: $missing- $advice"
      return 0
    fi
  fi
  say "installing them with apt-get"
  "${apt[@]}" update -qq </dev/null || say "apt-get update failed; trying with the package lists that are there"
  # shellcheck disable=SC2086  # one word per package
  "${apt[@]}" install -y -qq --no-install-recommends $missing </dev/null ||
    fail_if_required "apt-get could not install: $missing- $advice"
  missing=$(required_packages)
  [ -z "$missing" ] || fail "still missing after apt-get: $missing"
}

check_versions() {
  local gcc cmake
  gcc=$(g++ -dumpversion)
  [ "${gcc%%.*}" -ge 12 ] || fail "g++ is version $gcc; Weft needs 12 or newer"
  cmake=$(cmake --version | sed -n '1s/[^0-9]*//p')
  [ "$(printf '3.22\n%s\n' "$cmake" | sort -V | head -1)" = 3.22 ] ||
    fail "cmake is version $cmake; Weft needs 3.22 or newer"
}

venv_is_complete() {
  cmp -s tools/requirements.txt .venv/weft-requirements.txt &&
    .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("numpy") and u.find_spec("transformers")))' \
      >/dev/null 2>&1
}

install_python_packages() {
  venv_is_complete && return 0
  local python
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || fail "no Python from 3.10 to 3.14 with its venv module"
    say "creating a Python environment in .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
  fi
  say "installing into .venv: $(grep -v '^#' tools/requirements.txt | tr '\n' ' ')(torch may be a large download)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r tools/requirements.txt </dev/null ||
    fail "pip could not install the packages of tools/requirements.txt; see above"
  cp tools/requirements.txt .venv/weft-requirements.txt  # last: marks the environment as complete
}

install_packages
check_versions
install_python_packages
say "set up: compilers and libraries are there, torch is in .venv"
