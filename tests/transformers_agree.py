"""Checks weft's models and tokenizer against Hugging Face transformers.

    python tests/transformers_agree.py build/weft

Needs torch and transformers (any version from 4.56 on); without them it says so and ends with 77, which ctest takes as
skipped.
  1. A model that `weft train` writes gives the same loss in transformers, on the tokens of
     `weft eval --dump`, to 1e-5.
  2. Models that transformers writes (untied, scaled rotary, sharded, bf16) give the same loss in weft.
  3. The tokenizer written beside the model encodes every text as its UTF-8 bytes.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

BOUND = 1e-5
WORDS = ["weft", "warp", "thread", "loom", "Gewebe", "\u7e54\u308b", "\U0001f9f5", "def f(x):\n    return x"]


def weft(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def write_text(folder):
    folder.mkdir()
    dice = random.Random(1)
    for i in range(40):
        text = " ".join(dice.choices(WORDS, k=dice.randint(1, 120)))
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")


def loss_in_transformers(model_folder, dump):
    """Mean loss over the labels of a dump; each packed document is run on its own."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    tokens = {name: t.reshape(-1) for name, t in load_file(dump).items()}
    starts = (tokens["position_ids"] == 0).nonzero().flatten().tolist() + [len(tokens["labels"])]
    total, count = 0.0, 0
    with torch.no_grad():
        for begin, end in zip(starts, starts[1:]):
            logits = model(
                input_ids=tokens["input_ids"][None, begin:end],
                position_ids=tokens["position_ids"][None, begin:end],
            ).logits[0]
            labels = tokens["labels"][begin:end]
            total += torch.nn.functional.cross_entropy(
                logits.double(), labels, ignore_index=-100, reduction="sum").item()
            count += int((labels != -100).sum())
    return total / count, count


def compare(program, what, model_folder, text, work):
    dump = work / "dump.safetensors"
    result = json.loads(weft(program, "eval", "--model", model_folder, "--text", text,
                             "--tokens", 3000, "--dump", dump, "--json"))
    loss, count = loss_in_transformers(model_folder, dump)
    difference = abs(result["loss"] / loss - 1)
    print(f"{what}: weft {result['loss']:.8f}, transformers {loss:.8f}, "
          f"relative difference {difference:.1e}, {count} tokens")
    assert result["tokens"] == count
    assert difference < BOUND


def check_tokenizer(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dice = random.Random(2)
    texts = ["", " ", "a b  c\r\n", "<|endofdocument|>", "x<|endofdocument|> y", "\0\x7f\ufeff",
             "".join(map(chr, range(0x300)))]
    for _ in range(300):
        codes = [dice.randrange(0x110000) for _ in range(dice.randint(0, 40))]
        texts.append("".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000))
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids == list(text.encode("utf-8")), (text, ids)
        assert tokenizer.decode(ids) == text, text
    assert len(tokenizer) == 257 and tokenizer.eos_token_id == 256
    print(f"tokenizer: {len(texts)} texts are their bytes")


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "build/weft"
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        text = work / "text"
        write_text(text)
        weft(program, "train", "--text", text, "--tokens", 1024, "--steps", 5, "--seed", 1,
             "--out", work / "out")
        compare(program, "trained by weft", work / "out" / "model", text, work)
        check_tokenizer(work / "out" / "model")

        shape = dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
                     num_attention_heads=8, num_key_value_heads=2, initializer_range=0.2)
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                  "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
        cases = {
            "untied": dict(tie_word_embeddings=False, rope_theta=10000.0),
            "tied, head_dim 24": dict(tie_word_embeddings=True, head_dim=24),
            "llama3 rotary": dict(rope_theta=500000.0, rope_scaling=llama3),
            "linear rotary": dict(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        }
        for i, (name, extra) in enumerate(cases.items()):
            for dtype in (torch.float32, torch.bfloat16):
                folder = work / f"hf-{i}-{dtype}"
                torch.manual_seed(i)
                model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **extra))
                model.to(dtype).save_pretrained(folder, max_shard_size="50KB")
                compare(program, f"{name}, {dtype}", folder, text, work)
    print("all agree")


if __name__ == "__main__":
    main()
