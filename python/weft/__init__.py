"""Weft: one long sequence over many devices.

    import torch.distributed as dist, weft

    plan = weft.plan(dist.group.WORLD, tokens=65536, heads=32, kv_heads=8, head_dim=128)
    q, k, v = (plan.shard(t, dim=1) for t in (q, k, v))      # [batch, tokens, heads, head dim]
    out = weft.attention(q, k, v, plan)                      # this rank's tokens; differentiable

Every rank calls the same functions in the same order, as with torch.distributed itself.
"""

from weft._attention import attention
from weft._convolution import gated_associative_memory, short_convolution, token_shift
from weft._linear import linear_attention
from weft._loss import cross_entropy, shard_batch
from weft._plan import Plan, methods, plan
from weft._relayout import relayout
from weft._rnn import para_rnn
from weft._transformers import plans_for_model, register_with_transformers

__all__ = ["Plan", "attention", "cross_entropy", "gated_associative_memory", "linear_attention", "methods", "para_rnn", "plan", "plans_for_model",
           "register_with_transformers", "relayout", "shard_batch", "short_convolution", "token_shift"]
__version__ = "0.1.0"
