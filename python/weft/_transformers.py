"""Hugging Face transformers: attn_implementation="weft"."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from weft._attention import attention
from weft._loss import cross_entropy
from weft._plan import Plan
from weft._plan import plan as make_plan

NAME = "weft"
# What models hand on to attention and what does not change it. Anything else that is set is refused, never ignored.
_HARMLESS = frozenset("""position_embeddings position_ids cache_position num_items_in_batch shift_labels
                         output_hidden_states return_dict logits_to_keep layer_idx""".split())


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The mask that a model asks for; travels through it in place of a mask tensor."""

    causal: bool = False
    window: int | None = None
    both_sides: bool = False  # the window
    why_not: str = ""  # it cannot be done

    def __and__(self, other: _Rule) -> _Rule:
        windows = [rule for rule in (self, other) if rule.window is not None]
        least = min(windows, key=lambda rule: rule.window) if windows else self
        return _Rule(self.causal or other.causal, least.window, least.both_sides, self.why_not or other.why_not)


def _rule_of(function: Callable[..., Any]) -> _Rule:
    """What a mask function of transformers.masking_utils means. They are closures: their names tell which, their cells with
    what. A name that is not known here is refused, so another version of transformers is refused or right."""
    name = function.__qualname__.replace("<locals>.", "") if function.__module__ == "transformers.masking_utils" else ""
    cells = dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ())))
    if name == "causal_mask_function":
        return _Rule(causal=True)
    if name == "bidirectional_mask_function":
        return _Rule()
    if name == "sliding_window_overlay.inner_mask":
        return _Rule(window=cells["sliding_window"])
    if name == "sliding_window_bidirectional_overlay.inner_mask":
        return _Rule(window=cells["sliding_window"] + 1, both_sides=True)
    if name == "and_masks.and_mask":
        rule = _Rule()
        for part in cells["mask_functions"]:
            rule = rule & _rule_of(part)
        return rule
    if name == "packed_sequence_mask_function.inner_mask":
        return _Rule()  # guessed from jumps in position_ids, as shards have them; the plan knows the documents
    if name == "remap_positions_for_packed_sequence.inner_mask":
        return _rule_of(cells["mask_function"])
    return _Rule(why_not=f"its mask ({function.__module__}.{function.__qualname__}) is none of causal, full and sliding window")


def _mask(batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0,
          mask_function: Callable[..., Any] | None = None, attention_mask: torch.Tensor | None = None, **_: Any) -> _Rule:
    """In place of a mask: its rule, which attention compares with the plan."""
    if q_length != kv_length or q_offset != 0 or kv_offset != 0:
        return _Rule(why_not=f"{q_length} queries from {q_offset} on meet {kv_length} keys from {kv_offset} on: a cache or "
                             "cross-attention; weft trains and scores whole sequences")
    if attention_mask is not None and not bool(attention_mask.all()):
        return _Rule(why_not="attention_mask hides tokens; leave padding out and pack the sequences: "
                             "weft.plan(documents=[lengths])")
    return _rule_of(mask_function) if mask_function else _Rule(why_not="it gives no mask function")


def _plans_of(given: Any) -> Sequence[Plan]:
    plans = (given,) if isinstance(given, Plan) else given
    if not isinstance(plans, (tuple, list)) or not plans or not all(isinstance(p, Plan) for p in plans):
        raise TypeError("attn_implementation='weft' needs a plan for each call: model(**batch, weft_plan=plan), with plan of "
                        f"weft.plan or weft.plans_for_model; weft_plan is {type(given).__name__}")
    return plans


def _effective(window: int | None, plan: Plan) -> int | None:
    """A window that no document fills hides nothing."""
    return None if window is None or window >= max(plan.documents) else window


def _plan_for(rule: _Rule, plans: Sequence[Plan]) -> Plan | str:
    """The plan with the mask of a layer, or why there is none."""
    for plan in plans:
        if not plan.same_places(plans[0]):
            return "the plans of weft_plan place tokens on different ranks; make them with plan.with_window"
        if plan.causal == rule.causal and _effective(plan.window, plan) == _effective(rule.window, plan):
            return plan
    have = ", ".join(f"causal={p.causal} window={p.window}" for p in plans)
    return (f"it has causal={rule.causal} window={rule.window}, and weft_plan has {have}; give one plan for each mask of the "
            f"model: weft_plan=(plan, plan.with_window({rule.window})), or weft.plans_for_model(model.config, ...)")


def _wrong_positions(position_ids: torch.Tensor | None, plan: Plan) -> str:
    advice = "pass position_ids=plan.positions()[None], as weft.shard_batch gives them"
    if position_ids is None:
        return f"it does not say at which positions the tokens are, so that nobody could check them; {advice}"
    if position_ids.dim() != 2 or position_ids.size(1) != plan.local_tokens:
        return f"position_ids are {list(position_ids.shape)}, and this rank has {plan.local_tokens} tokens; {advice}"
    if not plan.has_positions(position_ids):
        return f"position_ids are not the positions of this rank's tokens in their documents; {advice}"
    return ""


def _forward(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
             scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None,
             softcap: float | None = None, is_causal: bool | None = None, position_ids: torch.Tensor | None = None,
             use_cache: bool | None = None, weft_plan: Any = None, **others: Any) -> tuple[torch.Tensor, None]:
    """query, key and value [batch, heads, local tokens, head dim] to [batch, local tokens, heads, head dim]."""
    plans = _plans_of(weft_plan)
    rule = attention_mask if isinstance(attention_mask, _Rule) else _Rule(
        why_not="it brings no mask of its own" if attention_mask is None else
        f"attention_mask is a {type(attention_mask).__name__} that weft cannot read; the plan knows causal, window and documents")
    found = _plan_for(rule, plans)
    unknown = sorted(name for name, value in others.items() if name not in _HARMLESS and value is not None and value is not False)
    whys = (
        rule.why_not,
        f"dropout is {dropout}; set attention_dropout=0.0 in the model's config" if dropout else "",
        f"softcap is {softcap}, and weft has the plain softmax only (attn_logit_softcapping=None in the model's config)"
        if softcap else "",
        "use_cache is on, and a cache would hold this rank's tokens only; pass use_cache=False" if use_cache else "",
        "router losses would be of this rank's tokens only; set output_router_logits=False"
        if getattr(getattr(module, "config", None), "output_router_logits", False) else "",
        f"{', '.join(unknown)}: nothing that weft attention knows; leave it out" if unknown else "",
        "its window looks back only, and it is not causal" if rule.window and not rule.causal and not rule.both_sides else "",
        f"sliding_window is {sliding_window}, and its mask has {rule.window}"
        if sliding_window is not None and sliding_window != rule.window and not rule.both_sides else "",
        found if isinstance(found, str) else "",
        _wrong_positions(position_ids, plans[0]),
    )
    for why in whys:
        if why:
            (plans[0] if isinstance(found, str) else found).refuse(f"weft cannot compute {type(module).__name__}: {why}")
    return attention(query, key, value, found, scale=scaling, layout="bhtd").transpose(1, 2), None


def _loss_over_plan(plain: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The loss of causal models: with a plan, the mean over its group; without one, as before."""

    def loss(logits: torch.Tensor, labels: torch.Tensor | None, *args: Any, weft_plan: Any = None,
             shift_labels: torch.Tensor | None = None, **others: Any) -> torch.Tensor:
        if weft_plan is None:
            return plain(logits, labels, *args, shift_labels=shift_labels, **others)
        if shift_labels is None:
            raise ValueError("labels would be shifted within this rank's tokens, and the label of the last token of a piece is on "
                             "another rank; pass shift_labels of weft.shard_batch(batch, plan), and labels=shift_labels to have a loss")
        return cross_entropy(logits, shift_labels, _plans_of(weft_plan)[0])

    loss.of_weft = True  # type: ignore[attr-defined]
    return loss


# Heads that take one token out of each sequence, and models that end in one; by the names of their classes.
_PICKING = ("SequenceClassification", "MultipleChoice", "NextSentencePrediction", "DoubleHeads", "RewardModel")


def _wrong_head(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Why what a model does with the tokens of this rank after its layers is not what it would do with the sequence; "" if it is."""
    if args:
        names = list(inspect.signature(type(model).forward).parameters)[1:]
        kwargs = {**dict(zip(names, args)), **kwargs}
    chosen = getattr(model.config.get_text_config(), "_attn_implementation", None)
    if isinstance(chosen, str) and chosen != NAME:
        return (f"its attn_implementation is {chosen!r}, so that its layers would see this rank's tokens only; make it with "
                f"attn_implementation='{NAME}', or model.set_attn_implementation('{NAME}')")
    for name in ("logits_to_keep", "num_logits_to_keep"):
        keep = kwargs.get(name)
        if keep is not None and (not isinstance(keep, int) or keep != 0):
            return (f"{name} is {keep if isinstance(keep, int) else 'a tensor'}, and would pick among this rank's tokens, not those of the "
                    "sequence; leave it out and pick from plan.unshard(logits), or here by plan.indices()")
    advice = "call the model without it and pool plan.unshard(last_hidden_state)"
    if any(word in type(model).__name__ for word in _PICKING):
        return f"its head picks one token of each sequence, and sees this rank's only; {advice}"
    if getattr(model, "pooler", None) is not None:
        return f"its pooler takes one token of each sequence, and sees this rank's only; {advice} (add_pooling_layer=False)"
    kind = getattr(model, "loss_type", None)
    if kwargs.get("labels") is not None and kind not in (None, "ForCausalLM"):
        return (f"its loss ({kind}) would be of this rank's tokens only; leave labels out and compute the loss from its "
                "outputs, over all ranks")
    return ""


def _call_over_plan(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Calls of models: with a plan, only those that mean the same on a rank's tokens."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("weft_plan")
        if given is not None:
            plans, why = _plans_of(given), _wrong_head(self, args, kwargs)
            if why:
                plans[0].refuse(f"weft cannot compute {type(self).__name__}: {why}")
        return plain(self, *args, **kwargs)

    call.of_weft = True  # type: ignore[attr-defined]
    return call


def register_with_transformers() -> None:
    """Makes attn_implementation="weft" known to Hugging Face transformers. Written for 5.23; may be called again.

        weft.register_with_transformers()
        model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="weft")
        plans = weft.plans_for_model(model.config, tokens=65536)
        batch = weft.shard_batch({"input_ids": ids}, plans[0])
        logits = model(**batch, weft_plan=plans, use_cache=False).logits           # of this rank's tokens
        weft.cross_entropy(logits, batch["shift_labels"], plans[0]).backward()

    The plan travels with each call, so recomputed checkpoints have the same one. weft_plan: a plan, or several of one placement
    for models whose layers have different windows. With labels=batch["shift_labels"] the model's own loss is the mean over
    the group (gradients for averaging, as by DDP). Refused on every rank, with ValueError: padding and other masks, dropout,
    caches, soft caps, attention weights as output, position_ids that are not the plan's, logits_to_keep, heads and poolers that
    take one token of a sequence (classification), losses other than of causal models, and a plan for a model whose attention is
    another. Raises ImportError without transformers.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
        from transformers.loss.loss_utils import LOSS_MAPPING
    except ImportError as error:
        raise ImportError("weft.register_with_transformers needs transformers with AttentionInterface and "
                          f"AttentionMaskInterface (written for 5.23): {error}") from error
    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, _mask)
    if not hasattr(LOSS_MAPPING["ForCausalLM"], "of_weft"):
        LOSS_MAPPING["ForCausalLM"] = _loss_over_plan(LOSS_MAPPING["ForCausalLM"])
    if not hasattr(PreTrainedModel.__call__, "of_weft"):
        PreTrainedModel.__call__ = _call_over_plan(PreTrainedModel.__call__)  # type: ignore[method-assign]


def plans_for_model(config: Any, group: Any = None, **arguments: Any) -> tuple[Plan, ...]:
    """The plans that a Hugging Face model needs: one for each window of its layers, all with the same placement of tokens.

    config: the model's; heads, head dim and windows are read from it. group and arguments: as of weft.plan (tokens or
    documents, method, layout, options, timeout). Raises ValueError for layers that are neither full nor sliding attention.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    given = sorted(set(arguments) & {"heads", "kv_heads", "head_dim", "value_dim", "causal", "window"})
    if given:
        raise TypeError(f"weft.plans_for_model: {', '.join(given)} come from the model's config; use weft.plan to give them")
    kinds = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(f"weft.plans_for_model: layers of kinds {sorted(kinds)}; allowed are full_attention and "
                         "sliding_attention")
    windows = [window] if not kinds else [None] * ("full_attention" in kinds) + [window] * ("sliding_attention" in kinds)
    heads = text.num_attention_heads
    first = make_plan(group, heads=heads, kv_heads=getattr(text, "num_key_value_heads", None) or heads,
                      head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads, window=windows[0],
                      causal=getattr(text, "is_causal", True), **arguments)
    return (first, *(first.with_window(other) for other in windows[1:]))
