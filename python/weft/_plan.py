"""Plans: which tokens live on which rank, and the proved schedule that computes attention over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import torch
import torch.distributed as dist

from weft import _library as _library  # loads the operators

Ints = Sequence[int] | torch.Tensor


Layer = Literal["softmax", "linear", "retnet", "mamba2", "gla", "deltanet", "gdn", "kda", "rwkv6", "rwkv7", "elementwise", "pairwise"]


def methods(layer: Layer = "softmax") -> list[str]:
    """Names of all methods for attention, or for a linear layer."""
    return torch.ops.weft.method_names(layer)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"weft.plan: {name} is {value!r}; give a whole number")
    if value < least:
        raise ValueError(f"weft.plan: {name} is {value}; it is at least {least}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"weft.plan: {name} is {value!r}; give its name")
    return value


def _ints(name: str, values: Ints) -> list[int]:
    if isinstance(values, torch.Tensor):
        if values.dim() != 1 or values.is_floating_point():
            raise TypeError(f"weft.plan: {name} is a tensor {list(values.shape)} of {values.dtype}; give one row of integers")
        values = values.tolist()
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TypeError(f"weft.plan: {name} holds something else than whole numbers")
    return list(values)


def _lengths(tokens: int | None, documents: Ints | None, cu_seqlens: Ints | None, position_ids: Ints | None) -> list[int]:
    """Lengths of the packed documents, from whichever description is given."""
    given = [name for name, value in (("documents", documents), ("cu_seqlens", cu_seqlens),
                                      ("position_ids", position_ids)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"weft.plan: {' and '.join(given)} all describe the documents; give one of them")
    if documents is not None:
        lengths = _ints("documents", documents)
    elif cu_seqlens is not None:
        borders = _ints("cu_seqlens", cu_seqlens)
        if not borders or borders[0] != 0:
            raise ValueError("weft.plan: cu_seqlens begins with 0 and then has the end of each document")
        lengths = [end - begin for begin, end in zip(borders, borders[1:])]
    elif position_ids is not None:
        positions = _ints("position_ids", position_ids)
        starts = [i for i, position in enumerate(positions) if position == 0]
        if not starts or starts[0] != 0:
            raise ValueError("weft.plan: position_ids restart at 0 where a document begins, and begin with 0")
        lengths = [end - begin for begin, end in zip(starts, starts[1:] + [len(positions)])]
        for begin, length in zip(starts, lengths):
            if positions[begin:begin + length] != list(range(length)):
                raise ValueError(f"weft.plan: position_ids do not count up from 0 in the document at token {begin}")
    elif tokens is not None:
        lengths = [_whole("tokens", tokens, 1)]
    else:
        raise TypeError("weft.plan: give tokens, or the documents that are packed (documents, cu_seqlens or position_ids)")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"weft.plan: documents of lengths {lengths}; give at least one, each of 1 token or more")
    if tokens is not None and sum(lengths) != tokens:
        raise ValueError(f"weft.plan: {given[0]} have {sum(lengths)} tokens together, and tokens is {tokens}")
    return lengths


def plan(group: dist.ProcessGroup | None = None, *, tokens: int | None = None, heads: int, kv_heads: int | None = None,
         head_dim: int, value_dim: int | None = None, layer: Layer = "softmax", log_decay: Sequence[float] | None = None,
         key_heads: int | None = None, householders: int = 1, canonical: bool = False, causal: bool = True, window: int | None = None, documents: Ints | None = None,
         cu_seqlens: Ints | None = None, position_ids: Ints | None = None, method: str = "auto",
         layout: str | Sequence[Ints] = "", options: Mapping[str, Any] | None = None, timeout: float | None = None) -> Plan:
    """How the ranks of a group share one sequence and its attention. Every rank calls it with the same arguments.

    group: a process group, or a one-dimensional device mesh; None: all ranks. It must take tensors of the devices that calls
        give: Gloo those in main memory, NCCL those on a GPU.
    tokens: of the whole sequence. Instead, for packed documents: documents (lengths), cu_seqlens, or position_ids that restart.
    heads, kv_heads, head_dim, value_dim: of the whole attention; kv_heads defaults to heads, value_dim to head_dim.
    layer: "softmax" is attention; the others are linear layers, for weft.linear_attention: causal ("linear" also with
        causal=False), without a window, as many kv heads as heads; head_dim is their key dim. log_decay: of each head of "retnet", at most 0; None: those of RetNet.
        key_heads: heads of q and k of a linear layer, a divisor of heads (default: as many): each is read by heads / key_heads heads
        that follow one another, the groups of Mamba-2.
        householders: of "deltanet", "gdn" and "kda": so often does a token write (Gated DeltaProduct).
        canonical: results of linear layers have the same bits for every number of ranks and layout, by "chain", "all-scan" ("auto")
        and "head-exchange"; ranks wait more, and a layout as a list has to cut documents at multiples of 128 from their begin.
    causal, window: a query sees keys k <= q, and with a window those with |q - k| < window, in its own document.
    method: a name from weft.methods(layer), or "auto": the least cost by the methods' closed forms, of linear
        layers the least time by a model of the machine; explain() says why.
    layout: by name, as in `weft verify --layout ...`; or for each rank the tokens that it holds, in its order.
    options: of the method, as in `weft verify --option ...`.
    timeout: seconds to wait for a message; None: the group's own.

    Raises ValueError for what cannot be, saying what can; RuntimeError on every rank when ranks gave different arguments.
    """
    if not dist.is_initialized():
        raise RuntimeError("weft.plan: torch.distributed is not initialised; call torch.distributed.init_process_group first")
    group = _group_of(group)
    lengths = _lengths(tokens, documents, cu_seqlens, position_ids)
    heads = _whole("heads", heads, 1)
    spec = {
        "group": group.group_name,
        "method": method,
        "layout": layout if isinstance(layout, str) else "",
        "options": {str(key): str(value) for key, value in (options or {}).items()},
        "documents": lengths,
        "causal": bool(causal),
        "window": 0 if window is None else _whole("window", window, 1),
        "layer": _text("layer", layer),
        "log_decay": [] if log_decay is None else [float(x) for x in log_decay],
        "key_heads": 0 if key_heads is None else _whole("key_heads", key_heads, 1),
        "householders": _whole("householders", householders, 1),
        "canonical": bool(canonical),
        "heads": heads,
        "kv_heads": heads if kv_heads is None else _whole("kv_heads", kv_heads, 1),
        "dim": _whole("head_dim", head_dim, 1),
        "dim_v": head_dim if value_dim is None else _whole("value_dim", value_dim, 1),
        "timeout": 0.0 if timeout is None else float(timeout),
    }
    if not isinstance(layout, str):
        spec["runs"] = [_runs(_ints(f"layout[{rank}]", tokens)) for rank, tokens in enumerate(layout)]
    _require_equal(spec, group)
    return Plan(spec, group)


def _runs(positions: list[int]) -> list[tuple[int, int, int]]:
    """The same as first position, stride and count of each piece with even steps."""
    runs: list[tuple[int, int, int]] = []
    begin = 0
    while begin < len(positions):
        stride = positions[begin + 1] - positions[begin] if begin + 1 < len(positions) else 1
        end = begin + 1
        while end < len(positions) and positions[end] - positions[end - 1] == stride > 0:
            end += 1
        runs.append((positions[begin], stride if end > begin + 1 else 1, end - begin))
        begin = end
    return runs


def _group_of(group: Any) -> dist.ProcessGroup:
    if group is None:
        return dist.group.WORLD
    if hasattr(group, "get_group"):  # a device mesh
        return group.get_group()
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("weft.plan: this rank is not in the group; only its members make a plan")
    return group


def _require_equal(spec: dict[str, Any], group: dist.ProcessGroup) -> None:
    """Raises on every rank when the ranks were given different plans: before any data moves."""
    specs: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(specs, {key: value for key, value in spec.items() if key != "group"}, group=group)
    for rank, other in enumerate(specs):
        for key in {**specs[0], **other}:
            if other.get(key) != specs[0].get(key):
                raise RuntimeError(f"weft.plan: ranks of the group differ in {key}: rank 0 has {specs[0].get(key)!r}, rank "
                                   f"{rank} has {other.get(key)!r}; give the same arguments on every rank")


class Plan:
    """Made by weft.plan."""

    def __init__(self, spec: dict[str, Any], group: dist.ProcessGroup):
        self._spec, self.group = spec, group
        self.rank: int = dist.get_rank(group)
        self.ranks: int = dist.get_world_size(group)
        self.handle: int = torch.ops.weft.plan_make(json.dumps(spec))
        self.method: str = torch.ops.weft.plan_method(self.handle)
        self.layout: str = torch.ops.weft.plan_layout(self.handle)
        self._positions = [torch.ops.weft.plan_positions(self.handle, rank) for rank in range(self.ranks)]
        self._here = self.positions()

    def __del__(self) -> None:
        if getattr(self, "handle", 0) and torch is not None:
            torch.ops.weft.plan_drop(self.handle)

    def __repr__(self) -> str:
        layer = "" if self.layer == "softmax" else f"{self.layer} by "
        return (f"weft.Plan({layer}{self.method}, {self.tokens} tokens over {self.ranks} ranks, {self.local_tokens} here, "
                f"{self._spec['heads']} heads, {self._spec['kv_heads']} kv heads)")

    @property
    def tokens(self) -> int:
        """Of the whole sequence."""
        return sum(self._spec["documents"])

    @property
    def local_tokens(self) -> int:
        """Of this rank. May be 0."""
        return self._positions[self.rank].numel()

    @property
    def documents(self) -> list[int]:
        """Lengths of the packed documents."""
        return list(self._spec["documents"])

    @property
    def layer(self) -> str:
        """What it is a plan for: "softmax", or a linear layer."""
        return self._spec["layer"]

    @property
    def causal(self) -> bool:
        """Whether a query sees keys k <= q only."""
        return self._spec["causal"]

    @property
    def key_heads(self) -> int:
        """Heads of q and k of a linear layer."""
        return self._spec["key_heads"] or self._spec["heads"]

    @property
    def householders(self) -> int:
        """How often a token writes, of layers with a delta rule."""
        return self._spec["householders"]

    @property
    def canonical(self) -> bool:
        """Whether results have the same bits for every number of ranks and layout."""
        return self._spec["canonical"]

    @property
    def window(self) -> int | None:
        """A query sees keys with |q - k| < window; None: all."""
        return self._spec["window"] or None

    def with_window(self, window: int | None) -> Plan:
        """The plan for the same tokens in the same places, with another window: for models whose layers differ. Every rank
        calls it. Raises ValueError where the method would place the tokens differently."""
        spec = {**self._spec, "method": self.method, "window": 0 if window is None else _whole("window", window, 1)}
        _require_equal(spec, self.group)
        other = Plan(spec, self.group)
        if not self._same_places_everywhere(other):
            raise ValueError(f"Plan.with_window: {self.method} places tokens by the mask, so that window={window} has other places "
                             "than this plan; name a layout for both, as layout='zigzag'")
        return other

    def with_layer(self, layer: Layer, *, heads: int | None = None, head_dim: int | None = None, value_dim: int | None = None,
                   log_decay: Sequence[float] | None = None, key_heads: int | None = None, householders: int = 1, method: str = "auto",
                   options: Mapping[str, Any] | None = None) -> Plan:
        """The plan for the same tokens in the same places, with another layer: for hybrid models, whose layers are of both
        families. Every rank calls it.

        heads, head_dim, value_dim: of that layer; by default as many heads and columns as here. method, options, log_decay,
        key_heads, householders: as of weft.plan. Raises ValueError where the layer cannot be computed on these places: linear layers need runs of neighbouring
        tokens, as contiguous and zigzag have them.
        """
        heads = self._spec["heads"] if heads is None else _whole("heads", heads, 1)
        dim = self._spec["dim"] if head_dim is None else _whole("head_dim", head_dim, 1)
        values = (self._spec["dim_v"] if head_dim is None else dim) if value_dim is None else _whole("value_dim", value_dim, 1)
        spec = {**self._spec, "layer": _text("layer", layer), "method": method, "heads": heads, "kv_heads": heads, "dim": dim,
                "dim_v": values, "options": {str(key): str(value) for key, value in (options or {}).items()},
                "log_decay": [] if log_decay is None else [float(x) for x in log_decay], "causal": True, "window": 0,
                "key_heads": 0 if key_heads is None else _whole("key_heads", key_heads, 1),
                "householders": _whole("householders", householders, 1),
                "layout": "" if "runs" in self._spec else self._spec["layout"] or ("" if self.canonical else self.layout)}
        _require_equal(spec, self.group)
        other = Plan(spec, self.group)
        if not self._same_places_everywhere(other):
            raise ValueError(f"Plan.with_layer: layout {self.layout} by name has other places than this plan; name a layout in weft.plan")
        return other

    def _same_places_everywhere(self, other: Plan) -> bool:
        return all(torch.equal(other.indices(rank), self.indices(rank)) for rank in range(self.ranks))

    def documents_begun(self, rank: int | None = None) -> list[int]:
        """Which documents have their first token on a rank (this one by default), ascending: the order of initial states."""
        return torch.ops.weft.plan_documents(self.handle, self.rank if rank is None else rank, True)

    def documents_ended(self, rank: int | None = None) -> list[int]:
        """Which documents have their last token on a rank (this one by default), ascending: the order of final states."""
        return torch.ops.weft.plan_documents(self.handle, self.rank if rank is None else rank, False)

    def ends_here(self) -> list[int]:
        """The last tokens of plan.documents_ended() in the whole sequence, ascending."""
        ends = torch.tensor(self._spec["documents"]).cumsum(0) - 1
        return ends[self.documents_ended()].tolist()

    def tokens_here(self, tokens: Sequence[int], rank: int | None = None) -> list[int]:
        """Which of these tokens of the whole sequence live on a rank (this one by default), ascending: the order of the states
        after them."""
        asked = torch.tensor(sorted(set(tokens)), dtype=torch.long)
        return asked[torch.isin(asked, self.indices(rank))].tolist()

    def refuse(self, why: str) -> NoReturn:
        """Raises ValueError(why): this rank will not go through with the next call. Others may have begun it: they raise, too,
        and say why. Nothing is lost when all ranks refuse."""
        torch.ops.weft.plan_refuse(self.handle, why)
        raise ValueError(why)

    def indices(self, rank: int | None = None) -> torch.Tensor:
        """Which tokens of the whole sequence live on a rank (this one by default), in local order: int64 [local tokens]."""
        return self._positions[self.rank if rank is None else rank]

    def positions(self, rank: int | None = None) -> torch.Tensor:
        """Their positions, counted anew in each document: what rotary embeddings take. int64 [local tokens]."""
        starts = torch.tensor([0] + self._spec["documents"]).cumsum(0)
        indices = self.indices(rank)
        return indices - starts[torch.searchsorted(starts, indices, right=True) - 1]

    def has_positions(self, position_ids: torch.Tensor) -> bool:
        """Whether these are the positions of this rank's tokens: [local tokens], or [batch, local tokens]."""
        here = self._here.to(position_ids.device)
        return position_ids.shape[-1:] == here.shape and bool((position_ids == here).all())

    def same_places(self, other: Plan) -> bool:
        """Whether this rank has the same tokens, in the same order, by both plans."""
        return other is self or torch.equal(self.indices(), other.indices())

    def shard(self, tensor: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """This rank's tokens of a tensor that holds the whole sequence along `dim`. Differentiable."""
        if tensor.size(dim) != self.tokens:
            raise ValueError(f"Plan.shard: dimension {dim} has {tensor.size(dim)} entries, and the plan {self.tokens} tokens; "
                             "give the whole sequence")
        return tensor.index_select(dim, self.indices().to(tensor.device))

    def unshard(self, tensor: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """The whole sequence from every rank's tokens, in order, on every rank. Every rank calls it.

        Backward adds what all ranks give for a token, as for a loss that is the sum over ranks.
        """
        if tensor.size(dim) != self.local_tokens:
            raise ValueError(f"Plan.unshard: dimension {dim} has {tensor.size(dim)} entries, and this rank {self.local_tokens} "
                             "tokens; give what this rank computed for its own tokens")
        return _Unshard.apply(tensor, dim, self)

    def explain(self) -> dict[str, Any]:
        """Method, why this one, and for bf16, a batch of one, forward and backward: work (allowed pairs x heads), bytes sent,
        messages, live and saved bytes of each rank, as proved."""
        return json.loads(torch.ops.weft.plan_describe(self.handle))

    def draw(self, backward: bool = False) -> Drawing:
        """The schedule as a picture: shown by notebooks; its text, an SVG document, is `.svg`."""
        return Drawing(torch.ops.weft.plan_draw(self.handle, backward))


class Drawing:
    def __init__(self, svg: str):
        self.svg = svg

    def _repr_svg_(self) -> str:
        return self.svg


class _Unshard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, dim: int, plan: Plan) -> torch.Tensor:
        ctx.plan, ctx.dim = plan, dim
        rows = tensor.movedim(dim, 0).contiguous()
        most = max(plan.indices(rank).numel() for rank in range(plan.ranks))
        mine = rows.new_zeros((most, *rows.shape[1:]))
        mine[:rows.size(0)] = rows
        parts = [torch.empty_like(mine) for _ in range(plan.ranks)]
        dist.all_gather(parts, mine, group=plan.group)
        whole = rows.new_empty((plan.tokens, *rows.shape[1:]))
        for rank, part in enumerate(parts):
            indices = plan.indices(rank)
            whole[indices] = part[:indices.numel()]
        return whole.movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.plan.group)
        return total.index_select(ctx.dim, ctx.plan.indices().to(total.device)), None, None
