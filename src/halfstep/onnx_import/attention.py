"""Attention as one operator, written out in the products and the softmax it consists of, so that both products can be integers.

    Y = softmax(Q K^T scale + mask) V

Q, K, V: [batch, heads, length, size], or [batch, length, heads * size]; several heads of Q may share one of K and V. scale: 1 / sqrt(size)
where it is not given. A soft cap c replaces a score s by c tanh(s / c).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfstep.onnx_import.call import Call, Translation


def _attention(call: Call) -> tuple[Tensor, ...]:
    if call.has(6) or any(call.operation.outputs[3:]) or any("window" in name for name in call.operation.attributes):
        raise call.refusal(
            "lengths of padded keys, windows and the scores as an output are not translated. Export it in its parts (opset 21)."
        )
    query, key, value = (call.tensor(index) for index in range(3))
    is_flat = query.ndim == 3
    if is_flat:
        query = _heads(query, call.integer("q_num_heads", 1))
        key, value = (_heads(part, call.integer("kv_num_heads", 1)) for part in (key, value))
    if call.has(4) and call.has(5):
        key, value = torch.cat([call.tensor(4), key], 2), torch.cat([call.tensor(5), value], 2)
    repeats = int(query.shape[1]) // int(key.shape[1])
    wide = [part if repeats == 1 else part.repeat_interleave(repeats, 1) for part in (key, value)]
    scores = torch.matmul(query, wide[0].transpose(-1, -2)) * call.real("scale", 1 / math.sqrt(int(query.shape[-1])))
    weights = torch.softmax(_masked(call, _capped(scores, call.real("softcap", 0.0))), -1)
    result = torch.matmul(weights, wide[1])
    return result.transpose(1, 2).flatten(2) if is_flat else result, key, value


def _heads(x: Tensor, count: int) -> Tensor:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    apart: Tensor = x.unflatten(-1, (count, int(x.shape[-1]) // count))
    return apart.transpose(1, 2)


def _capped(scores: Tensor, cap: float) -> Tensor:
    capped: Tensor = torch.tanh(scores / cap) * cap if cap else scores
    return capped


def _masked(call: Call, scores: Tensor) -> Tensor:
    """A mask of truth values hides where it is false, one of numbers is added; later positions are hidden where ``is_causal`` is set."""
    if call.has(3):
        mask = call.tensor(3)
        scores = torch.masked_fill(scores, torch.logical_not(mask), -math.inf) if mask.dtype is torch.bool else scores + mask
    if call.flag("is_causal"):
        length, width = int(scores.shape[-2]), int(scores.shape[-1])
        past = int(call.tensor(4).shape[2]) if call.has(4) else 0
        later = torch.arange(width)[None, :] > torch.arange(past, past + length)[:, None]
        scores = torch.masked_fill(scores, later, -math.inf)
    return scores


ATTENTION: dict[str, Translation] = {"Attention": Translation(_attention)}
"""Operator -> its translation."""
