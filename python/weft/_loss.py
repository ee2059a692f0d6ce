"""The loss of a sequence that lies on many ranks, and its inputs."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F

from weft._plan import Plan

IGNORED = -100


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, plan: Plan, *,
                  grad_reduce: Literal["mean", "sum"] = "mean") -> torch.Tensor:
    """The mean over all labelled tokens of the group, the same number on every rank.

    logits [..., vocabulary] and labels [...] of this rank's tokens; labels shifted already (shard_batch does it), -100: none.
    grad_reduce: how gradients of parameters are put together over the plan's group: "mean", as DDP and FSDP do, or "sum".
        Either way the result is the gradient of the global mean, also when ranks have different numbers of labels or none.
    """
    if grad_reduce not in ("mean", "sum"):
        raise ValueError(f"weft.cross_entropy: grad_reduce {grad_reduce!r}; allowed are 'mean' and 'sum'")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"weft.cross_entropy: logits {list(logits.shape)} and labels {list(labels.shape)}; logits have one more "
                         "dimension, the vocabulary, and else the same")
    local = F.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), labels.reshape(-1), ignore_index=IGNORED,
                            reduction="sum")
    sums = torch.stack([local.detach().double(), (labels != IGNORED).sum().double()])
    dist.all_reduce(sums, group=plan.group)
    total, count = sums.tolist()
    if count == 0:
        raise ValueError("weft.cross_entropy: no token of the group has a label; the mean of none is not a number")
    factor = (plan.ranks if grad_reduce == "mean" else 1) / count
    return _Mean.apply(local, total / count, factor)


class _Mean(torch.autograd.Function):
    """The mean as value; the gradient of the local sum by the factor of the whole."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, value: float, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return local.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grad * ctx.factor, None, None


def shard_batch(batch: dict[str, torch.Tensor], plan: Plan) -> dict[str, Any]:
    """This rank's part of a batch of whole sequences.

    batch: input_ids [batch, tokens], and labels [batch, tokens] with -100 where there is none; without labels the next token
    of the same document is the label. Returns input_ids, position_ids (counted anew in each document), shift_labels (the
    label of the next token, which no model may shift again) and num_items_in_batch (labelled tokens of all ranks).
    """
    if "input_ids" not in batch:
        raise ValueError(f"weft.shard_batch: the batch has {sorted(batch)}; it needs input_ids, and may have labels")
    unknown = sorted(set(batch) - {"input_ids", "labels", "position_ids"})
    if unknown:
        raise ValueError(f"weft.shard_batch: {', '.join(unknown)} would be ignored; leave it out (the plan knows the mask)")
    ids = batch["input_ids"]
    if ids.dim() != 2 or ids.size(1) != plan.tokens:
        raise ValueError(f"weft.shard_batch: input_ids {list(ids.shape)}; the plan needs [batch, {plan.tokens}]")
    labels = batch.get("labels", ids)
    if labels.shape != ids.shape:
        raise ValueError(f"weft.shard_batch: labels {list(labels.shape)} and input_ids {list(ids.shape)}; give the same shape")
    shifted = torch.full_like(labels, IGNORED)
    shifted[:, :-1] = labels[:, 1:]
    ends = torch.tensor(plan.documents).cumsum(0) - 1
    shifted[:, ends] = IGNORED  # the next token is of another document
    return {
        "input_ids": plan.shard(ids),
        "position_ids": plan.positions().to(ids.device).expand(ids.size(0), -1),
        "shift_labels": plan.shard(shifted),
        "num_items_in_batch": int((shifted != IGNORED).sum()),
    }
