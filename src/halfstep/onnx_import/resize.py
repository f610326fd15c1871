"""Resizing images. PyTorch's operators for the common modes; any other place of the grid by explicit indices and weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.onnx_import.call import Call, Translation

_PYTORCH_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")


def _resize(call: Call) -> Tensor:
    """roi, scales and sizes are the inputs 2 to 4 since opset 11."""
    x = call.tensor(0)
    mode, place = call.text("mode", "nearest"), call.text("coordinate_transformation_mode", "half_pixel")
    if call.flag("antialias") or mode not in ("nearest", "linear") or place not in _COORDINATES:
        raise call.refusal(
            f"the mode '{mode}' with coordinates '{place}'{' and antialiasing' if call.flag('antialias') else ''} is not translated. "
            f"Translated: nearest and linear with {', '.join(_COORDINATES)}."
        )
    axes = [call.within(axis, x.ndim) for axis in call.listed("axes") or range(x.ndim)]
    scales, sizes = _targets(call, x, axes)
    changed = {axis: (scale, size) for axis, scale, size in zip(axes, scales, sizes, strict=True) if scale != 1 or size != x.shape[axis]}
    if any(size < 1 for _, size in changed.values()):
        raise call.refusal(f"it makes axes of sizes {[size for _, size in changed.values()]}. The file is damaged: export it again.")
    whole = _by_pytorch(call, x, changed, mode, place)
    if whole is not None:
        return whole
    for axis, (scale, size) in changed.items():
        x = _resized_axis(call, x, axis, scale, size)
    return x


def _targets(call: Call, x: Tensor, axes: list[int]) -> tuple[list[float], list[int]]:
    """Scale and size of each axis, of which the file gives one."""
    have = [x.shape[axis] for axis in axes]
    is_by_size = call.has(3) and call.known(3).size > 0
    if not is_by_size:
        if not call.has(2):
            raise call.refusal("it has neither scales nor sizes. The file is damaged: export it again.")
        scales = [float(scale) for scale in call.known(2).reshape(-1).tolist()]
        return scales, [size if scale == 1 else math.floor(int(size) * scale) for size, scale in zip(have, scales, strict=True)]
    sizes = call.integers(3)
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratios = [size / int(own) for size, own in zip(sizes, have, strict=True)]
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        return [ratio] * len(sizes), [int(ratio * int(own) + 0.5) for own in have]
    return [1.0 if size is own or size == own else size / int(own) for size, own in zip(sizes, have, strict=True)], sizes


def _by_pytorch(call: Call, x: Tensor, changed: dict[int, tuple[float, int]], mode: str, place: str) -> Tensor | None:
    """The operator of PyTorch's that computes the same; None where there is none."""
    spatial = list(range(2, x.ndim))
    if x.ndim not in _PYTORCH_LINEAR or not changed or not set(changed) <= set(spatial):
        return None
    sizes = [changed[axis][1] if axis in changed else int(x.shape[axis]) for axis in spatial]
    exact = all(scale * int(x.shape[axis]) == size for axis, (scale, size) in changed.items())
    if mode == "nearest":
        is_upscaled = all(size % int(x.shape[axis]) == 0 for axis, (_, size) in changed.items())
        rounding = call.text("nearest_mode", "round_prefer_floor")
        same_place = place == "asymmetric" and rounding == "floor"
        if exact and (same_place or (is_upscaled and place in ("half_pixel", "pytorch_half_pixel") and rounding == "round_prefer_floor")):
            return F.interpolate(x, size=sizes, mode="nearest")
        return None
    aligned = place == "align_corners"
    is_centred = place == "half_pixel" or (place == "pytorch_half_pixel" and min(sizes) > 1)
    if not x.is_floating_point() or not (aligned or (is_centred and exact)):
        return None
    return F.interpolate(x, size=sizes, mode=_PYTORCH_LINEAR[x.ndim], align_corners=aligned)


def _resized_axis(call: Call, x: Tensor, axis: int, scale: float, size: int) -> Tensor:
    """One axis by the places its values come from."""
    own = int(x.shape[axis])
    places = _places(call.text("coordinate_transformation_mode", "half_pixel"), own, size, scale)
    if call.text("mode", "nearest") == "nearest":
        chosen = _rounded(places, call.text("nearest_mode", "round_prefer_floor"))
        return torch.index_select(x, axis, torch.tensor([min(max(index, 0), own - 1) for index in chosen]))
    low = [min(max(math.floor(place), 0), own - 1) for place in places]
    high = [min(max(math.floor(place) + 1, 0), own - 1) for place in places]
    shares = [min(max(place - math.floor(place), 0.0), 1.0) for place in places]
    shape = [-1 if other == axis else 1 for other in range(x.ndim)]
    share = torch.tensor(shares, dtype=x.dtype).reshape(shape)
    first, second = (torch.index_select(x, axis, torch.tensor(indices)) for indices in (low, high))
    return first * (1 - share) + second * share


def _places(mode: str, own: int, size: int, scale: float) -> list[float]:
    """Where in the old axis each new value lies."""
    if mode == "align_corners":
        return [index * (own - 1) / (size - 1) if size > 1 else 0.0 for index in range(size)]
    if mode == "asymmetric":
        return [index / scale for index in range(size)]
    if mode == "pytorch_half_pixel" and size <= 1:
        return [0.0] * size
    shift = 0.0
    if mode == "half_pixel_symmetric":
        shift = own / 2 * (1 - size / (own * scale))
    return [shift + (index + 0.5) / scale - 0.5 for index in range(size)]


def _rounded(places: list[float], mode: str) -> list[int]:
    if mode == "floor":
        return [math.floor(place) for place in places]
    if mode == "ceil":
        return [math.ceil(place) for place in places]
    if mode == "round_prefer_ceil":
        return [math.floor(place + 0.5) for place in places]
    return [math.ceil(place - 0.5) for place in places]


RESIZE: dict[str, Translation] = {"Resize": Translation(_resize, values=(1, 2, 3))}
"""Operator -> its translation."""
