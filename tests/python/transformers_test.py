"""Hugging Face models over a plan: loss and gradients of one process with eager attention, and what is refused."""

import re
import unittest
import warnings

import torch
import torch.distributed as dist
from ranks import run

import weft

try:
    import transformers
except ImportError:
    transformers = None
else:
    transformers.logging.set_verbosity_error()
    # Loaded once, before processes part.
    for _name in ("AutoModelForCausalLM", "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM",
                  "Gemma2ForCausalLM", "GenerationMixin"):
        getattr(transformers, _name)

COMMON = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "max_position_embeddings": 256}


def config_of(name, **other):
    other = {**COMMON, **other}
    if name == "llama":
        return transformers.LlamaConfig(**other)
    if name == "qwen2":
        return transformers.Qwen2Config(**other)
    if name == "qwen3":  # full and sliding layers, a head dim that is not hidden size / heads
        return transformers.Qwen3Config(**{"head_dim": 24, "use_sliding_window": True, "sliding_window": 9,
                                           "layer_types": ["full_attention", "sliding_attention"], **other})
    if name == "mistral":
        return transformers.MistralConfig(**{"sliding_window": 7, **other})
    assert name == "gemma2"
    return transformers.Gemma2Config(**{"head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 9,
                                        "attn_logit_softcapping": None, **other})


def model_of(name, attention, **other):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config_of(name, **other), attn_implementation=attention)
    return model.train()


def ids_of(batch, lengths, seed=3):
    torch.manual_seed(seed)
    return torch.randint(0, 97, (batch, sum(lengths)))


def eager_step(model, ids, lengths):
    """Loss and gradients of one process; documents by position_ids that restart."""
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(ids.size(0), -1)
    labels = ids.clone()
    labels[:, torch.tensor([0, *lengths[:-1]]).cumsum(0)] = -100  # the first of a document is nobody's next token
    loss = model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def trains(rank, ranks, name, lengths, checkpoints, compiled=False):
    weft.register_with_transformers()
    ids = ids_of(2, lengths)
    layers = {"num_hidden_layers": 1} if compiled else {}
    want, grads = eager_step(model_of(name, "eager", **layers), ids, lengths)
    model = model_of(name, "weft", **layers)
    if checkpoints is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpoints})
    plans = weft.plans_for_model(model.config, documents=lengths, method="zigzag")
    batch = weft.shard_batch({"input_ids": ids}, plans[0])
    called = torch.compile(model, backend="aot_eager") if compiled else model
    logits = called(**batch, weft_plan=plans, use_cache=False).logits
    loss = weft.cross_entropy(logits, batch["shift_labels"], plans[0])
    loss.backward()
    torch.testing.assert_close(loss.detach(), want, rtol=1e-5, atol=0)
    for key, parameter in model.named_parameters():
        grad = parameter.grad.clone()
        dist.all_reduce(grad)
        error = (grad / ranks - grads[key]).abs().max() / grads[key].abs().max()
        assert error <= 1e-5, f"{name} {key}: {error}"
    if checkpoints is None:  # the model's own loss
        same = model(**batch, labels=batch["shift_labels"], weft_plan=plans, use_cache=False).loss
        torch.testing.assert_close(same.detach(), loss.detach())


def leaks(rank, ranks):
    weft.register_with_transformers()
    lengths = [11, 30, 1, 22]
    model = model_of("llama", "weft").eval()
    plan = weft.plan(documents=lengths, heads=4, kv_heads=2, head_dim=16)
    begin = 0
    with torch.no_grad():
        whole = {}
        for changed in (None, 0, 1, 3):
            ids = ids_of(1, lengths)
            if changed is not None:
                document = slice(sum(lengths[:changed]), sum(lengths[:changed + 1]))
                ids[:, document] = (ids[:, document] + 1) % 97
            batch = weft.shard_batch({"input_ids": ids}, plan)
            whole[changed] = plan.unshard(model(**batch, weft_plan=plan, use_cache=False).logits)
    for changed in (0, 1, 3):
        begin = 0
        for document, length in enumerate(lengths):
            same = torch.equal(whole[None][:, begin:begin + length], whole[changed][:, begin:begin + length])
            assert same == (document != changed), (changed, document)
            begin += length


def refusals(rank, ranks):
    weft.register_with_transformers()
    model = model_of("llama", "weft")
    shape = {"heads": 4, "kv_heads": 2, "head_dim": 16, "method": "zigzag"}
    plan = weft.plan(tokens=24, **shape)
    batch = weft.shard_batch({"input_ids": ids_of(1, [24])}, plan)
    good = {**batch, "weft_plan": plan, "use_cache": False}

    def refused(pattern, of=model, kind=ValueError, **changes):
        try:
            of(**{**good, **changes})
        except kind as error:
            assert re.search(pattern, str(error)), error
        else:
            raise AssertionError(pattern)

    n = plan.local_tokens
    refused("needs a plan", kind=TypeError, weft_plan=None)
    refused("use_cache=False", use_cache=True)
    refused("pack the sequences", attention_mask=torch.tensor([[1] * (n - 1) + [0]]))
    refused("cannot read", attention_mask=torch.zeros(1, 1, n, n))
    refused("output_attentions", output_attentions=True)
    refused("cu_seq_lens_q", cu_seq_lens_q=torch.tensor([0, n]))
    refused("position_ids are not", position_ids=torch.arange(n)[None] + 1)
    refused("position_ids are not", position_ids=None)
    refused("shift_labels", labels=batch["input_ids"], shift_labels=None)
    refused(r"window=None.*has causal=True window=5", weft_plan=weft.plan(tokens=24, window=5, **shape))
    refused("causal=False", weft_plan=weft.plan(tokens=24, causal=False, **shape))
    refused("this rank's part of the plan", weft_plan=weft.plan(tokens=24, **{**shape, "heads": 8}))
    refused("dropout is 0.1", of=model_of("llama", "weft", attention_dropout=0.1))
    refused("with_window", of=model_of("mistral", "weft"))
    refused("softcap is 50", of=model_of("gemma2", "weft", attn_logit_softcapping=50.0))
    refused("logits_to_keep is 1", logits_to_keep=1)
    refused("logits_to_keep is a tensor", logits_to_keep=torch.tensor([0]))
    refused("attn_implementation is 'eager'", of=model_of("llama", "eager"))
    config = config_of("llama", pad_token_id=0)
    heads = [auto.from_config(config, attn_implementation="weft") for auto in (
        transformers.AutoModelForSequenceClassification, transformers.AutoModelForTokenClassification,
        transformers.AutoModelForQuestionAnswering)]
    refused("picks one token", of=heads[0], shift_labels=None)
    refused(r"its loss \(ForTokenClassification\)", of=heads[1], labels=batch["input_ids"], shift_labels=None)
    for head in heads[1:]:  # on each token: right without a loss
        head(**{key: value for key, value in good.items() if key != "shift_labels"})
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=97, hidden_size=64, num_attention_heads=4, num_hidden_layers=1,
                                                          intermediate_size=96, attn_implementation="weft"))
    refused("its pooler takes one token", of=bert)
    model(**{**good, "attention_mask": torch.ones(1, n), "logits_to_keep": 0})
    model_of("llama", "weft", attention_dropout=0.1).eval()(**good)
    model_of("mistral", "weft", sliding_window=24)(**good)  # a window that hides nothing
    try:
        model.eval().generate(ids_of(1, [24]), max_new_tokens=2)
    except (TypeError, ValueError) as error:
        assert "weft" in str(error), error
    else:
        raise AssertionError("generate")
    for bad in ({"heads": 4}, {"window": 3}):
        try:
            weft.plans_for_model(model.config, tokens=24, **bad)
        except TypeError:
            continue
        raise AssertionError(bad)
    # The right way to the logits of the last token: those of one process.
    with torch.no_grad():
        last = plan.unshard(model(**good).logits)[:, -1]
        torch.testing.assert_close(last, model_of("llama", "eager")(ids_of(1, [24]), logits_to_keep=1).logits[:, 0], rtol=1e-5, atol=1e-5)
    # One rank only: the others hear of it.
    try:
        model.train()(**{**good, "position_ids": good["position_ids"] + (rank == 0)})
    except (ValueError if rank == 0 else RuntimeError) as error:
        assert "position_ids are not" in str(error), error
    else:
        raise AssertionError("position_ids of rank 0")


def a_head_of_one_rank(rank, ranks):
    """A rank that picks a token refuses; the others, in their layers, hear of it."""
    weft.register_with_transformers()
    model = model_of("llama", "weft")
    plan = weft.plan(tokens=24, heads=4, kv_heads=2, head_dim=16)
    batch = weft.shard_batch({"input_ids": ids_of(1, [24])}, plan)
    try:
        model(**batch, weft_plan=plan, use_cache=False, logits_to_keep=int(rank == 1))
    except (ValueError if rank == 1 else RuntimeError) as error:
        assert "logits_to_keep is 1" in str(error), error
    else:
        raise AssertionError("logits_to_keep of rank 1")


def rules():
    """Masks of transformers as rules; what is none is refused."""
    from transformers import masking_utils as masks

    from weft._transformers import _mask, _rule_of

    rule = _rule_of(masks.sliding_window_causal_mask_function(6))
    assert (rule.causal, rule.window, rule.both_sides, rule.why_not) == (True, 6, False, ""), rule
    rule = _rule_of(masks.sliding_window_bidirectional_mask_function(6))  # |q - k| <= 6
    assert (rule.causal, rule.window, rule.both_sides, rule.why_not) == (False, 7, True, ""), rule
    packed = masks.packed_sequence_compatibility_function(masks.causal_mask_function, torch.arange(4)[None], torch.zeros(1, 4))
    assert _rule_of(packed) == _rule_of(masks.causal_mask_function)
    for unknown in (masks.chunked_causal_mask_function(4, torch.zeros(1)), lambda *at: True,
                    masks.or_masks(masks.causal_mask_function, masks.bidirectional_mask_function),
                    masks.and_masks(masks.causal_mask_function, masks.padding_mask_function(torch.ones(1, 4)))):
        assert "none of causal, full and sliding window" in _rule_of(unknown).why_not
    assert "cache" in _mask(1, 1, 5, 4, 0, masks.causal_mask_function).why_not


@unittest.skipIf(transformers is None, "transformers is not installed")
class Transformers(unittest.TestCase):
    def setUp(self):
        warnings.simplefilter("ignore")

    def test_loss_and_gradients(self):
        for ranks, name, lengths, checkpoints in (
                (2, "llama", [48], None), (4, "llama", [17, 3, 30], None), (2, "llama", [20, 28], False),
                (2, "llama", [48], True), (2, "qwen2", [31], None), (4, "mistral", [40], None), (2, "mistral", [9, 25], False),
                (4, "qwen3", [37], None), (2, "qwen3", [20, 21], False), (2, "gemma2", [33], None)):
            with self.subTest(ranks=ranks, name=name, lengths=lengths, checkpoints=checkpoints):
                run(ranks, trains, name, lengths, checkpoints)

    def test_masks(self):
        rules()

    def test_compiled_model(self):
        run(2, trains, "llama", [20, 28], None, True)

    def test_documents_do_not_see_each_other(self):
        run(2, leaks)
        run(3, leaks)

    def test_refusals(self):
        run(2, refusals)
        run(2, a_head_of_one_rank)


if __name__ == "__main__":
    unittest.main()
