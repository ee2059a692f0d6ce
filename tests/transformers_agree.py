"""Checks weft's models and tokenizer against Hugging Face transformers.

    python tests/transformers_agree.py build/weft

Needs torch and transformers (any version from 4.56 on); without them it says so and ends with 77, which ctest takes as
skipped.
  1. A model that `weft train` writes gives the same loss in transformers, on the tokens of
     `weft eval --dump`, to 1e-5.
  2. Models that transformers writes (untied, scaled rotary, sharded, bf16) give the same loss in weft.
  3. Hybrids of attention and Gated DeltaNet (qwen3_5_text) or Mamba-2 (bamba): models that transformers writes, over several
     ranks and layouts, and what `weft train --init` makes of them.
  4. The tokenizer written beside the model encodes every text as its UTF-8 bytes.
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


def compare(program, what, model_folder, text, work, options=()):
    dump = work / "dump.safetensors"
    result = json.loads(weft(program, "eval", "--model", model_folder, "--text", text,
                             "--tokens", 3000, "--dump", dump, "--json", *options))
    loss, count = loss_in_transformers(model_folder, dump)
    difference = abs(result["loss"] / loss - 1)
    print(f"{what}: weft {result['loss']:.8f}, transformers {loss:.8f}, "
          f"relative difference {difference:.1e}, {count} tokens")
    assert result["tokens"] == count
    assert difference < BOUND
    return loss


def hybrids():
    """Name, and a model with small random weights."""
    shape = dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
                 num_key_value_heads=2, initializer_range=0.2, tie_word_embeddings=False)
    if hasattr(transformers, "Qwen3_5TextConfig"):
        def qwen(**extra):
            return transformers.Qwen3_5ForCausalLM(transformers.Qwen3_5TextConfig(**{**shape, "head_dim": 16, **extra}))

        yield "qwen3_5_text, shared key heads", qwen(
            linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=12)
        yield "qwen3_5_text, tied, half rotated, wide convolution", qwen(
            linear_num_key_heads=3, linear_num_value_heads=3, linear_key_head_dim=16, linear_value_head_dim=8,
            linear_conv_kernel_dim=7, layer_types=["full_attention", "linear_attention"] * 2, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5})
    if hasattr(transformers, "BambaConfig"):
        def bamba(**extra):
            return transformers.BambaForCausalLM(transformers.BambaConfig(**{**shape, **extra}))

        yield "bamba, two groups", bamba(attn_layer_indices=[2], mamba_n_heads=8, mamba_n_groups=2, mamba_d_state=12)
        yield "bamba, no bias, one group", bamba(attn_layer_indices=[0, 1], mamba_n_heads=4, mamba_d_state=20, mamba_d_conv=3,
                                                 mamba_expand=1, mamba_conv_bias=False, tie_word_embeddings=True)


def check_hybrids(program, text, work):
    torch.manual_seed(5)
    for i, (name, model) in enumerate(hybrids()):
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.dim() == 1 and not parameter_name.endswith("A_log"):
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)  # where they begin, some hide how they act
        folder, out = work / f"hybrid-{i}", work / f"hybrid-{i}-trained"
        model.save_pretrained(folder)
        before = compare(program, name, folder, text, work)
        options = [("--ranks", 3), ("--ranks", 5, "--layout", "contiguous", "--linear-method", "log-step")][i % 2]
        compare(program, f"{name}, {' '.join(map(str, options))}", folder, text, work, options)
        weft(program, "train", "--text", text, "--init", folder, "--tokens", 1024, "--steps", 4, "--ranks", 2, "--lr", 1e-3,
             "--warmup", 0, "--out", out)
        after = compare(program, f"{name}, trained by weft", out / "model", text, work)
        assert after < before, (after, before)


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
        check_hybrids(program, text, work)
    print("all agree")


if __name__ == "__main__":
    main()
