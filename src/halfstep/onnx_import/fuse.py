"""Functions that exporters write out in parts, put together again: GELU, SiLU, hard swish, mish, layer and group norm, masks.

    GELU        x 0.5 (1 + erf(x / sqrt(2)))                   in any order of the factors
    SiLU        x sigmoid(x)
    hard swish  x hard_sigmoid(x)                              with slope 1/6 and offset 0.5
    mish        x tanh(log(1 + exp(x)))
    layer norm  (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) gain + bias        over the last axes
    group norm  an instance norm of x reshaped to [batch, groups, rest], gain and bias behind it
    mask        x + m, where every number of the constant m is 0 or below -1e30: x with places put to that number

As parts they would each be put on a grid of their own (a Mul and an Add are merges of two tensors), and lose far more than the function
as a whole. The new operation has the name of the last part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from halfstep.onnx_import.model import OnnxGraph, Operation

_HIDDEN = -1e30


def fuse(graph: OnnxGraph) -> None:
    """Replace the last part of every such function, in place; the other parts are left without readers."""
    for find in (_Parts.gelu, _Parts.gated, _Parts.layer_norm, _Parts.group_norm, _Parts.mask):
        parts = _Parts(graph)
        graph.operations = [find(parts, operation) or operation for operation in graph.operations]


class _Parts:
    """What was computed from what."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.constants = graph.constants
        self.makers = {name: operation for operation in graph.operations for name in operation.outputs if name}
        self.num_readers = {name: len(found) for name, found in graph.readers().items()}
        for name in graph.outputs:
            self.num_readers[name] = self.num_readers.get(name, 0) + 1

    def gelu(self, operation: Operation) -> Operation | None:
        """The product x 0.5 (1 + erf(x / sqrt(2)))."""
        factors = self._factors(operation)
        numbers = [factor for factor in factors if self._number(factor) is not None]
        sums = [factor for factor in factors if self._erf_argument(factor)]
        others = [factor for factor in factors if factor not in numbers and factor not in sums]
        if len(numbers) != 1 or len(sums) != 1 or len(others) != 1 or not self._is_close(numbers[0], 0.5):
            return None
        x = others[0]
        return _call(operation, "Gelu", (x,)) if self._erf_argument(sums[0]) == x else None

    def _erf_argument(self, name: str) -> str:
        """What x is, where the value is 1 + erf(x / sqrt(2)); else ""."""
        erf = self._beside(self.makers.get(name), "Add", 1.0)
        inner = self.makers.get(erf)
        if inner is None or inner.op_type != "Erf":
            return ""
        scaled = self.makers.get(inner.inputs[0])
        divided = self._beside(scaled, "Mul", math.sqrt(0.5))
        if divided:
            return divided
        is_division = scaled is not None and scaled.op_type == "Div" and self._is_close(scaled.inputs[1], math.sqrt(2))
        return scaled.inputs[0] if is_division and scaled is not None else ""

    def gated(self, operation: Operation) -> Operation | None:
        """The products x sigmoid(x), x hard_sigmoid(x) and x tanh(softplus(x))."""
        if operation.op_type != "Mul":
            return None
        for x, gate in (operation.inputs, operation.inputs[::-1]):
            maker = self.makers.get(gate)
            if maker is None or self.num_readers[gate] > 1:
                continue
            inner = self.makers.get(maker.inputs[0]) if maker.op_type == "Tanh" else None
            if inner is not None and inner.op_type == "Softplus" and inner.inputs == (x,):
                return _call(operation, "Mish", (x,))
            if maker.inputs[:1] != (x,):
                continue
            if maker.op_type == "Sigmoid":
                return _call(operation, "Swish", (x,))
            slope, offset = maker.attributes.get("alpha", 0.2), maker.attributes.get("beta", 0.5)
            if maker.op_type == "HardSigmoid" and math.isclose(slope, 1 / 6, rel_tol=1e-5) and offset == 0.5:
                return _call(operation, "HardSwish", (x,))
        return None

    def layer_norm(self, operation: Operation) -> Operation | None:
        """The whole of it, found from its last sum."""
        for normalized, gain, bias in self._scaled_and_shifted(operation):
            found = self._normalized(self.makers.get(normalized))
            if found is not None and self.constants[gain].ndim == self.constants[bias].ndim == found[1]:
                x, num_axes, epsilon = found
                return _call(operation, "LayerNormalization", (x, gain, bias), {"axis": -num_axes, "epsilon": epsilon})
        return None

    def group_norm(self, operation: Operation) -> Operation | None:
        """Found from its last sum; the instance norm inside has gains of 1 and biases of 0."""
        for normalized, gain, bias in self._scaled_and_shifted(operation):
            found = self._grouped(self.makers.get(normalized))
            if found is not None and self._is_of_channels(gain) and self._is_of_channels(bias):
                x, num_groups, epsilon = found
                for name in (gain, bias):
                    self.constants[f"{name}_of_channels"] = self.constants[name].reshape(-1)
                inputs = (x, f"{gain}_of_channels", f"{bias}_of_channels")
                return _call(operation, "GroupNormalization", inputs, {"num_groups": num_groups, "epsilon": epsilon, "is_per_channel": 1})
        return None

    def _scaled_and_shifted(self, operation: Operation) -> Iterator[tuple[str, str, str]]:
        """(x, gain, bias) of every way to read an operation as ``x * gain + bias`` with stored gain and bias."""
        if operation.op_type != "Add":
            return
        for scaled, bias in (operation.inputs, operation.inputs[::-1]):
            product = self.makers.get(scaled)
            if bias in self.constants and product is not None and product.op_type == "Mul":
                yield from ((x, gain, bias) for x, gain in (product.inputs, product.inputs[::-1]) if gain in self.constants)

    def _grouped(self, back: Operation | None) -> tuple[str, int, float] | None:
        """(x, groups, epsilon) of a tensor that is taken apart into groups, normalized, and given its own shape again."""
        if back is None or back.op_type != "Reshape":
            return None
        norm, shape = (self.makers.get(name) for name in back.inputs)
        if norm is None or norm.op_type != "InstanceNormalization" or shape is None or shape.op_type != "Shape":
            return None
        apart = self.makers.get(norm.inputs[0])
        sizes = self.constants.get(apart.inputs[1]) if apart is not None and apart.op_type == "Reshape" else None
        if apart is None or sizes is None:
            return None
        plain = [self.constants.get(name) for name in norm.inputs[1:]]
        is_plain = all(array is not None and bool((array == number).all()) for array, number in zip(plain, (1, 0), strict=True))
        if not is_plain or shape.inputs[0] != apart.inputs[0] or len(sizes) != 3 or sizes[0] != 0 or sizes[2] != -1:
            return None
        return apart.inputs[0], int(sizes[1]), float(norm.attributes.get("epsilon", 1e-5))

    def _is_of_channels(self, name: str) -> bool:
        """Whether a constant has one number for each channel of an image."""
        shape = self.constants[name].shape
        return len(shape) in (2, 3, 4) and shape[0] > 1 and set(shape[1:]) == {1}

    def mask(self, operation: Operation) -> Operation | None:
        """An Add that hides what a constant says."""
        if operation.op_type != "Add":
            return None
        for x, name in (operation.inputs, operation.inputs[::-1]):
            array = self.constants.get(name)
            if array is None or array.size < 2 or array.dtype.kind != "f" or x in self.constants:
                continue
            hidden = array < _HIDDEN
            if hidden.any() and (hidden | (array == 0)).all() and len(set(array[hidden].tolist())) == 1:
                self.constants[f"{name}_is_hidden"], self.constants[f"{name}_value"] = hidden, array[hidden][0].reshape(())
                return _call(operation, "Where", (f"{name}_is_hidden", f"{name}_value", x))
        return None

    def _normalized(self, quotient: Operation | None) -> tuple[str, int, float] | None:
        """(x, number of axes, epsilon) of x normalized."""
        if quotient is None or quotient.op_type != "Div":
            return None
        centred, root = (self.makers.get(name) for name in quotient.inputs)
        if centred is None or root is None or (centred.op_type, root.op_type) != ("Sub", "Sqrt"):
            return None
        x, mean = centred.inputs
        total = self.makers.get(root.inputs[0])
        if total is None or total.op_type != "Add":
            return None
        for variance, epsilon in (total.inputs, total.inputs[::-1]):
            number, num_axes = self._number(epsilon), self._last_axes(mean, x)
            squares = self.makers.get(variance)
            if number is not None and num_axes and squares is not None and self._last_axes(variance, squares.inputs[0]) == num_axes:
                return (x, num_axes, number) if self._squared(squares.inputs[0]) == (x, mean) else None
        return None

    def _squared(self, name: str) -> tuple[str, ...]:
        """(a, b) where the value is (a - b)^2."""
        square = self.makers.get(name)
        if square is None or not (
            (square.op_type == "Pow" and self._is_close(square.inputs[1], 2.0))
            or (square.op_type == "Mul" and len(set(square.inputs)) == 1)
        ):
            return ()
        difference = self.makers.get(square.inputs[0])
        return difference.inputs if difference is not None and difference.op_type == "Sub" else ()

    def _last_axes(self, name: str, x: str) -> int:
        """Over how many last axes the value is the mean of ``x``; 0 where it is not."""
        mean = self.makers.get(name)
        if mean is None or mean.op_type != "ReduceMean" or mean.inputs[0] != x or not mean.attributes.get("keepdims", 1):
            return 0
        given = self.constants[mean.inputs[1]].tolist() if mean.inputs[1:] and mean.inputs[1] in self.constants else None
        axes = mean.attributes.get("axes") or given or []
        return len(axes) if sorted(axes) == list(range(-len(axes), 0)) else 0

    def _factors(self, operation: Operation, is_first: bool = True) -> list[str]:
        """The leaves of a tree of multiplications that nothing else reads from."""
        if operation.op_type != "Mul":
            return []
        found: list[str] = []
        for name in operation.inputs:
            maker = self.makers.get(name)
            is_inner = maker is not None and maker.op_type == "Mul" and self.num_readers[name] == 1 and is_first
            found += self._factors(maker, False) if is_inner and maker is not None else [name]
        return found

    def _beside(self, operation: Operation | None, op_type: str, number: float) -> str:
        """The other operand of an operation with ``number``; "" where it is another operation."""
        if operation is None or operation.op_type != op_type:
            return ""
        return next((other for other, name in (operation.inputs, operation.inputs[::-1]) if self._is_close(name, number)), "")

    def _number(self, name: str) -> float | None:
        """A constant of one element."""
        array = self.constants.get(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind == "f" else None

    def _is_close(self, name: str, number: float) -> bool:
        found = self._number(name)
        return found is not None and math.isclose(found, number, rel_tol=1e-3)


def _call(operation: Operation, op_type: str, inputs: tuple[str, ...], attributes: dict[str, float] | None = None) -> Operation:
    return dataclasses.replace(operation, op_type=op_type, inputs=inputs, attributes=attributes or {})
