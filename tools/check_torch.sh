#!/usr/bin/env bash
# Compiles and links the operators of the Python package against the headers and CPU libraries of another version of torch. Every
# symbol that they need must be in its libraries (those built for 2.13 miss some in 2.11). They are not run.
#
#   check_torch.sh VERSION      for example 2.11.0; into build-torch-VERSION/
#
# Only the torch wheel is fetched, none of what it depends on: a CUDA build's libtorch_cpu.so serves as well.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -eq 1 ] || fail "usage: check_torch.sh VERSION"
version=$1
folder=build-torch-$version
[ -x .venv/bin/python ] || fail "no .venv; run make setup"

if [ ! -x "$folder/venv/bin/python" ]; then
  .venv/bin/python -m venv --without-pip "$folder/venv"
fi
if ! ls -d "$folder"/venv/lib/python*/site-packages/torch >/dev/null 2>&1; then
  say "fetching torch $version"
  .venv/bin/python -m pip --python "$folder/venv/bin/python" install --quiet --disable-pip-version-check --no-input --no-deps \
    "torch==$version" </dev/null || fail "pip could not install torch $version"
fi
configure "$folder" -DWEFT_PYTHON="$root/$folder/venv/bin/python" -DWEFT_TESTS=OFF
compile "$folder" weft_operators
say "compiled and linked for torch $(cat "$folder/python/torch_version"): $folder/python/libweft_operators.so"

libraries=$(echo "$folder"/venv/lib/python*/site-packages/torch/lib)
unresolved=$(LD_LIBRARY_PATH=$libraries ldd -r "$folder/python/libweft_operators.so" 2>&1 |
  grep -E 'undefined symbol.*(libweft_operators)' | grep -vE 'cuda|nccl' || true)
[ -z "$unresolved" ] || fail "symbols that torch $version does not have: $unresolved"
say "every symbol of torch that they need is in its libraries"
