"""Convolutions of one to three axes. Padding that differs between the two ends becomes an operator of its own in front."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.onnx_import.call import Call, Translation

_CONV = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def positive(call: Call, name: str, count: int, default: list[int] | None = None) -> list[int]:
    """An attribute with one positive integer for each of ``count`` spatial axes."""
    found = call.listed(name) or default or [1] * count
    if len(found) != count or any(size < 1 for size in found):
        raise call.refusal(f"its attribute '{name}' is {found} for {count} spatial axes. The file is damaged: export it again.")
    return found


def spatial_axes(call: Call, x: Tensor) -> int:
    """How many axes lie behind batch and channels; an error unless 1 to 3."""
    if not 1 <= x.ndim - 2 <= 3:
        raise call.refusal(f"its input has {x.ndim} axes; 3 to 5 are translated (batch, channels, 1 to 3 spatial ones).")
    return x.ndim - 2


def paddings(call: Call, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> list[tuple[int, int]]:
    """(begin, end) for each spatial axis, ``auto_pad`` resolved."""
    count, mode = len(kernel), call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return [
            _same(int(x.shape[2 + axis]), dilations[axis] * (kernel[axis] - 1) + 1, strides[axis], mode == "SAME_UPPER")
            for axis in range(count)
        ]
    pads = [0] * 2 * count if mode == "VALID" else call.listed("pads") or [0] * 2 * count
    if len(pads) != 2 * count or mode not in ("NOTSET", "VALID"):
        raise call.refusal(f"its padding {pads} (auto_pad {mode}) does not fit {count} spatial axes. The file is damaged: export it again.")
    return list(zip(pads[:count], pads[count:], strict=True))


def _same(size: int, kernel: int, stride: int, is_more_at_end: bool) -> tuple[int, int]:
    """As much as makes ceil(size / stride) outputs."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if is_more_at_end else (large, small)


def pad_spatial(x: Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    """``x`` with its spatial axes padded (or cut, where negative)."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(call: Call) -> Tensor:
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    count = spatial_axes(call, x)
    kernel = positive(call, "kernel_shape", count, list(weight.shape[2:]))
    strides, dilations = positive(call, "strides", count), positive(call, "dilations", count)
    groups = max(call.integer("group", 1), 1)
    pads = paddings(call, x, kernel, strides, dilations)
    if any(begin != end or begin < 0 for begin, end in pads):
        x, pads = pad_spatial(x, pads), [(0, 0)] * count
    return _CONV[count](x, weight, bias, strides, [begin for begin, _ in pads], dilations, groups)


def _conv_transpose(call: Call) -> Tensor:
    """Outputs beyond what equal padding on both ends gives are added or cut at the ends."""
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    count = spatial_axes(call, x)
    kernel = positive(call, "kernel_shape", count, list(weight.shape[2:]))
    strides, dilations = positive(call, "strides", count), positive(call, "dilations", count)
    extra = call.listed("output_padding") or [0] * count
    whole = [(int(x.shape[2 + axis]) - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1 + extra[axis] for axis in range(count)]
    pads = _transposed_paddings(call, x, whole, strides)
    same = [max(min(begin, end), 0) for begin, end in pads]
    fits = [e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)]  # what PyTorch accepts
    inside = extra if all(fits) else [0] * count
    result: Tensor = _TRANSPOSED[count](x, weight, bias, strides, same, inside, max(call.integer("group", 1), 1), dilations)
    wanted = [size - begin - end for size, (begin, end) in zip(whole, pads, strict=True)]
    left = [(s - begin, 0) for s, (begin, _) in zip(same, pads, strict=True)]
    missing = [(b, w - int(size) - b) for (b, _), w, size in zip(left, wanted, result.shape[2:], strict=True)]
    if any(amount > 0 for pair in missing for amount in pair) and bias is not None:
        raise call.refusal("its output is larger than what its kernel reaches. Give it a smaller output_shape or output_padding.")
    return pad_spatial(result, missing)


def _transposed_paddings(call: Call, x: Tensor, whole: list[int], strides: list[int]) -> list[tuple[int, int]]:
    """What is cut from the ends of the whole result: from output_shape, auto_pad, or pads."""
    shape, mode = call.listed("output_shape"), call.text("auto_pad", "NOTSET")
    if shape is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        return paddings(call, x, [1] * len(whole), strides, strides)
    sizes = shape[-len(whole) :] if shape else [int(size) * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    totals = [size - wanted for size, wanted in zip(whole, sizes, strict=True)]
    if mode == "SAME_UPPER":
        return [(total // 2, total - total // 2) for total in totals]
    return [(total - total // 2, total // 2) for total in totals]


CONVOLUTION: dict[str, Translation] = {"Conv": Translation(_conv), "ConvTranspose": Translation(_conv_transpose)}
"""Operator -> its translation."""
