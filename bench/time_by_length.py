#!/usr/bin/env python3
"""Training steps of one small model against length, once with softmax attention in every layer and once with a linear layer.

One document as long as the sequence, one rank, fp32. Seconds are of processor time, so that other work on the machine moves
them little: those of a run with several steps less those of one with a single step. MLPs and the vocabulary, which take the
same in all, are in them.

    python bench/time_by_length.py build/weft --tokens 2K 4K 8K 16K 32K
"""

import argparse
import json
import pathlib
import random
import resource
import subprocess
import sys
import tempfile

LAYERS = ("attention", "mamba2", "gla", "gdn")
MODEL = {"model_type": "weft_hybrid", "vocab_size": 257, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True,
         "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_conv_kernel_dim": 1}


def length(text):
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def config_of(layer):
    kind = "full_attention" if layer == "attention" else "linear_attention"
    return MODEL | {"linear_layer": "gla" if layer == "attention" else layer, "layer_types": [kind] * MODEL["num_hidden_layers"]}


def processor_seconds(weft, folder, config, tokens, steps):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([weft, "train", "--text", folder / "text", "--model-config", config, "--tokens", str(tokens), "--steps",
                           str(steps), "--ranks", "1", "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weft")
    parser.add_argument("--tokens", nargs="+", type=length, default=[2048, 4096, 8192, 16384])
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS)
    parser.add_argument("--steps", type=int, default=2, help="that count (default: 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "text").mkdir()
        letters = random.Random(0)
        text = "".join(letters.choices("abcdefgh ", k=4 * max(options.tokens)))
        (folder / "text" / "one.txt").write_text(text)
        print("| seconds of a step | " + " | ".join(f"{tokens:,} tokens" for tokens in options.tokens) + " |")
        print("|---|" + "---|" * len(options.tokens))
        for layer in options.layers:
            config = folder / f"{layer}.json"
            config.write_text(json.dumps(config_of(layer)))
            row = []
            for tokens in options.tokens:
                one, _ = processor_seconds(options.weft, folder, config, tokens, 1)
                more, report = processor_seconds(options.weft, folder, config, tokens, 1 + options.steps)
                row.append(f"{(more - one) / options.steps:.2f}")
            print(f"| {layer} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
