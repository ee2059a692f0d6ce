#!/usr/bin/env python3
"""The training step of Weft's demo model against Hugging Face transformers: same weights, tokens, optimiser, type and threads.

transformers writes the model, Weft starts from it, and both train on the sequences of `weft eval --dump`. transformers
gets its best: sdpa attention, fused AdamW, no cache. They take turns in rounds of a few steps, Weft as a process of its
own whose first step does not count; a round's ratio is Weft's tokens per second over transformers', reported is the
median. The losses of all steps are compared, since equal work is the point: rotary tables, decay and learning rates agree.

  --clock wall         seconds, on an idle machine
  --clock processor    seconds of processor time, where others use it too: with one thread the same but for waiting

  --documents packed   what `weft train` does: attention stays in each document (transformers: by position_ids)
  --documents one      every sequence is one document, so transformers needs no mask

    python bench/compare_with_transformers.py build/weft --ranks 1
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

import torch
import transformers
from safetensors.torch import load_file

MODELS = {  # hidden, intermediate, layers, heads, kv heads, head dim: weft/model/config.cc
    "tiny": (48, 128, 2, 4, 2, 12),
    "small": (256, 768, 6, 4, 2, 64),
    "medium": (512, 1408, 9, 8, 4, 64),
}
RATE, DECAY, BETAS, EPS, CLIP = 3e-3, 0.1, (0.9, 0.95), 1e-8, 1.0  # weft's defaults
FIRST = "first_step"  # the folder with the model that both start from


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stderr}")


def new_model(size, tokens):
    hidden, intermediate, layers, heads, kv_heads, head_dim = MODELS[size]
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=tokens,
        rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True, eos_token_id=256, bos_token_id=256)
    return transformers.LlamaForCausalLM(config)


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Transformers:
    """The trainer's step, on the same sequences in the same order."""

    def __init__(self, folder, sequences, steps, dtype, clock):
        self.clock = time.perf_counter if clock == "wall" else time.process_time
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa")
        self.model.train()
        self.model.config.use_cache = False
        matrices = [p for n, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.dim() != 2 or "embed" in n]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
            lr=RATE, betas=BETAS, eps=EPS, fused=True)
        self.sequences, self.steps, self.dtype, self.step = sequences, steps, dtype, 0

    def take_step(self):
        ids, positions, labels = self.sequences[self.step]
        self.step += 1
        begin = self.clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16"):
            logits = self.model(input_ids=ids[None], position_ids=positions[None]).logits[0]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * self.step / self.steps  # weft train --warmup STEPS
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item(), self.clock() - begin


def weft_steps(program, work, args, text, steps):
    """Losses of Weft's first `steps` steps, seconds of those after the first, and processor seconds of all there is."""
    log = work / "log.jsonl"
    log.unlink(missing_ok=True)
    before = children_seconds()
    run(program, "train", "--text", text, "--init", work / FIRST, "--ranks", args.ranks, "--tokens", args.tokens,
        "--steps", steps, "--warmup", args.rounds * args.steps + 1, "--dtype", args.dtype, "--seed", 1, "--log", log)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row["loss"] for row in rows], sum(row["seconds"] for row in rows[1:]), children_seconds() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="build/weft")
    parser.add_argument("--model", default="small", choices=MODELS)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--ranks", type=int, default=1, help="ranks of Weft and threads of torch")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="bf16: torch.autocast")
    parser.add_argument("--documents", default="packed", choices=["packed", "one"])
    parser.add_argument("--clock", default="wall", choices=["wall", "processor"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each in a round")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.ranks)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        torch.manual_seed(1)
        new_model(args.model, args.tokens).save_pretrained(work / FIRST)
        text = pathlib.Path(sysconfig.get_paths()["stdlib"])
        total = args.rounds * args.steps + 1
        if args.documents == "one":  # files much longer than a sequence, of which only one is in a sequence
            source = b"".join(p.read_bytes() for p in sorted(text.glob("*.py")))
            text = work / "text"
            text.mkdir()
            (text / "all.txt").write_bytes(source[: (total + 2) * args.tokens])
        dump = work / "dump.safetensors"
        run(args.program, "eval", "--model", work / FIRST, "--text", text, "--tokens", args.tokens,
            "--sequences", total, "--seed", 1, "--dump", dump, "--ranks", args.ranks)
        tensors = load_file(dump)
        sequences = [tuple(tensors[name].reshape(total, -1)[i] for name in ("input_ids", "position_ids", "labels"))
                     for i in range(total)]
        theirs = Transformers(work / FIRST, sequences, total, args.dtype, args.clock)
        if args.clock == "processor":  # what the process and its first step take
            start = weft_steps(args.program, work, args, text, 1)[2]
        rows, their_losses, our_losses = [], [theirs.take_step()[0]], []  # the first step allocates
        for _ in range(args.rounds):
            our_losses, our_seconds, used = weft_steps(args.program, work, args, text, args.steps + 1)
            if args.clock == "processor":
                our_seconds = used - start
            done = [theirs.take_step() for _ in range(args.steps)]
            their_losses += [loss for loss, _ in done]
            rows.append((our_seconds / args.steps, statistics.mean(s for _, s in done)))
        # Rounds of Weft begin anew: their common steps are compared.
        difference = max(abs(a / b - 1) for a, b in zip(our_losses, their_losses))
        if difference > (1e-4 if args.dtype == "fp32" else 2e-2):
            sys.exit(f"the losses differ by {difference:.1e}: {our_losses} and {their_losses}")
        ratios = [b / a for a, b in rows]
        ours, other = (args.tokens / statistics.median(row[i] for row in rows) for i in (0, 1))
        documents = statistics.mean(int((s[1] == 0).sum()) for s in sequences)
        result = {"model": args.model, "tokens": args.tokens, "ranks": args.ranks, "dtype": args.dtype, "clock": args.clock,
                  "documents": documents, "rounds": args.rounds, "weft_tokens_per_second": ours,
                  "transformers_tokens_per_second": other, "ratio": statistics.median(ratios),
                  "ratio_min": min(ratios), "ratio_max": max(ratios), "loss_difference": difference,
                  "torch": torch.__version__, "transformers": transformers.__version__}
        if args.json:
            print(json.dumps(result))
            return
        print(f"{args.model}, {args.tokens} tokens, {documents:.1f} documents a sequence, {args.dtype}, {args.ranks} threads, "
              f"{args.clock} time: "
              f"weft {ours:.0f}, transformers {other:.0f} tokens/s; ratio {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f}, {args.rounds} rounds); losses agree to {difference:.1e}")


if __name__ == "__main__":
    main()
