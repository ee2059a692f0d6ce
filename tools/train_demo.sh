#!/usr/bin/env bash
# The main job: trains a small language model on the source of Python's standard library, on two ranks, for a few
# minutes. Interrupted, it goes on where it stopped. Arguments are passed on to "weft train".
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=runs/demo
if [ -e "$out/finished" ] && [ $# -eq 0 ]; then
  say "$out is trained already; remove that folder to train again"
  say "to go on with it: build/weft train --help"
  exit 0
fi
text=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')
[ -d "$text" ] || fail "no Python standard library in '$text'"
mkdir -p "$out"
from=()
if [ -d "$out/checkpoints" ]; then
  say "going on from the last checkpoint in $out"
  from=(--resume "$out")
fi
say "training on $text, two ranks, into $out"
build/weft train --text "$text" --ranks 2 --method zigzag --tokens 8192 --steps 40 --warmup 5 --seed 1 \
  --out "$out" --log "$out/log.jsonl" "${from[@]}" "$@"
touch "$out/finished"
