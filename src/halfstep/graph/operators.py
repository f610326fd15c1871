"""What each ATen operator means to a quantizer: one table, read by every step that cares.

role        meaning
WEIGHTED    multiplies its input by a weight and adds a bias (convolutions, linear): integers in, an accumulator out
PRODUCT     multiplies two activations (matmul): both on a grid, its own grid out
MERGE       brings several tensors together (add, mul, concat): every operand on a grid, its own grid out
AVERAGE     averages values of one grid: its own (finer) grid out, because a mean falls between the codes it averages
CLIP        a clamp that a grid absorbs when it follows a WEIGHTED, PRODUCT or MERGE operator (ReLU, ReLU6, clip)
PASS        moves values without changing them (max pooling, reshape, transpose, slice, zero padding): shares its input's grid
FLOAT       element-wise function or normalization that stays in float here, between a dequantize and a quantize
SHAPE       arithmetic on sizes, not on values
Anything else is unknown: it stays in float too, and the report names it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node

from halfstep.graph.names import operator_name
from halfstep.quantizers import AbstractQuantizer
from halfstep.rounding import LinearOperator


class Role(enum.Enum):
    """See the table at the top of this file."""

    WEIGHTED = enum.auto()
    PRODUCT = enum.auto()
    MERGE = enum.auto()
    AVERAGE = enum.auto()
    CLIP = enum.auto()
    PASS = enum.auto()
    FLOAT = enum.auto()
    SHAPE = enum.auto()
    QUANTIZER = enum.auto()
    UNKNOWN = enum.auto()


ASKING = (Role.WEIGHTED, Role.PRODUCT, Role.MERGE)
"""Roles whose operands must all be integers."""

NORMS = ("layer_norm", "rms_norm", "group_norm", "instance_norm")
"""Operators that normalize over entries of one sample."""

CONCATENATIONS = ("cat", "concat", "concatenate")
"""Names of the operator that puts tensors one behind the other."""

FILLS = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
"""Operators that read the shape of their operand and nothing of its values."""

_NAMES: dict[Role, str] = {
    Role.WEIGHTED: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear",
    Role.PRODUCT: "matmul bmm mm",
    Role.MERGE: " ".join(("add sub mul", *CONCATENATIONS)),
    Role.AVERAGE: "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean",
    Role.CLIP: "relu relu6 hardtanh clamp clamp_min clip",
    Role.PASS: (
        "max_pool1d max_pool2d max_pool3d adaptive_max_pool2d view reshape flatten unflatten squeeze unsqueeze permute transpose t "
        "view_as reshape_as _unsafe_view swapaxes mT numpy_T movedim slice select index index_select gather narrow chunk split "
        "split_with_sizes tensor_split unbind getitem expand expand_as broadcast_to repeat repeat_interleave contiguous clone "
        "im2col unfold alias detach pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d flip roll Dropout Dropout1d Dropout2d Dropout3d dropout"
    ),
    Role.FLOAT: (
        "sigmoid tanh silu gelu elu selu celu leaky_relu prelu hardswish hardsigmoid hardshrink softplus mish exp log sqrt rsqrt pow "
        "div neg abs sin cos erf reciprocal softmax log_softmax layer_norm group_norm instance_norm rms_norm local_response_norm "
        "batch_norm BatchNorm1d BatchNorm2d BatchNorm3d sum max min amax amin argmax upsample_bilinear2d embedding "
        "scaled_dot_product_attention where minimum maximum masked_fill gt lt ge le eq ne linalg_vector_norm square var std "
        "cumsum einsum upsample_linear1d upsample_bicubic2d upsample_trilinear3d log1p log_sigmoid sign floor ceil round rsub "
        "to type_as _to_copy col2im slice_scatter select_scatter copy lstm gru grid_sampler baddbmm addmm addcmul"
    ),
    Role.SHAPE: "sym_size sym_numel mul floordiv truediv arange ones zeros full scalar_tensor",
}
_ROLES = {name: role for role in reversed(_NAMES) for name in _NAMES[role].split()}
_ROLES |= {"SyncBatchNorm": Role.FLOAT}


def role_of(node: Node) -> Role:
    """The role of a node that computes something; `Role.UNKNOWN` where the table has no row for it."""
    if node.meta.get("is_number"):
        return Role.SHAPE
    if node.op == "call_module" and isinstance(module_of(node), AbstractQuantizer):
        return Role.QUANTIZER
    if operator_name(node) in ("pad", "constant_pad_nd") and not _pads_with_zero(node):
        return Role.FLOAT  # another constant need not lie on the input's grid
    return _ROLES.get(operator_name(node), Role.UNKNOWN)


def _pads_with_zero(node: Node) -> bool:
    """Whether what a padding adds lies on its input's grid: zeros, or copies of the input's own values."""
    value = node.args[-1] if isinstance(node.args[-1], (int, float)) else node.kwargs.get("value")
    return not value


def module_of(node: Node) -> nn.Module:
    """The module a ``call_module`` node calls."""
    graph = node.graph.owning_module
    assert graph is not None
    return graph.get_submodule(str(node.target))


def clip_behind(node: Node) -> Node | None:
    """The CLIP that is fused into ``node``: its only user, behind an operator that multiplies or merges."""
    user = next(iter(node.users), None)
    if user is None or len(node.users) > 1 or not (node.op.startswith("call") and role_of(node) in ASKING):
        return None
    return user if user.op.startswith("call") and role_of(user) is Role.CLIP else None


def is_float_tensor(node: Node) -> bool:
    """Whether the node's value is one tensor of a floating type."""
    dtype = node.meta.get("dtype")
    return dtype is not None and dtype.is_floating_point


def num_tensors(node: Node) -> int:
    """How many operands are tensors; the same one twice counts twice."""
    operands = list(node.args[0]) if isinstance(node.args[0], (list, tuple)) else list(node.args)
    return sum(isinstance(operand, Node) and is_float_tensor(operand) for operand in operands)


@dataclass(frozen=True)
class WeightedLayer:
    """A convolution or linear operator and the nodes around it.

    output_axis: the axis of the weight that belongs to output channels: 0, or 1 for transposed convolutions (there of size
    C_out / groups, so per-channel scales are only possible without groups).
    """

    node: Node
    input: Node
    weight: Node
    bias: Node | None
    output_axis: int
    groups: int

    @property
    def input_axis(self) -> int:
        """The axis of the weight that belongs to input channels: those of one group, or all of a transposed convolution."""
        return 1 - self.output_axis

    @property
    def is_transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return "transpose" in operator_name(self.node)

    @property
    def num_axes(self) -> int:
        """Axes of the image that it works on: 0 of a linear layer."""
        name = operator_name(self.node)
        return 0 if name == "linear" else int(name[-2])

    def channel_axis(self, x: Node) -> int:
        """The axis of the channels of ``x``, which is the layer's input or output: the last one of a linear layer, else the one in front of
        the image. That is the first one of an image without a batch axis.
        """
        return len(x.meta["shape"]) - 1 - self.num_axes

    @property
    def name(self) -> str:
        """The user's name of the layer."""
        return str(self.node.meta["name"])


def weighted_layer(node: Node) -> WeightedLayer | None:
    """The layer view of a WEIGHTED node; None for any other node."""
    if node.op != "call_function" or role_of(node) is not Role.WEIGHTED:
        return None
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    groups = 1 if operator_name(node) == "linear" else argument(node, "groups", 1)
    x, weight = node.args[:2]
    assert isinstance(x, Node) and isinstance(weight, Node)
    return WeightedLayer(node, x, weight, bias if isinstance(bias, Node) else None, int("transpose" in operator_name(node)), int(groups))


def argument(node: Node, name: str, default: Any) -> Any:
    """The value of a named argument of an ATen call, wherever it stands; ``default`` where the overload takes none of that name."""
    position = _position(node, name)
    return node.args[position] if position is not None and position < len(node.args) else node.kwargs.get(name, default)


def set_argument(node: Node, name: str, value: Any) -> None:
    """Change a named argument of an ATen call, wherever it stands."""
    position = _position(node, name)
    if position is not None and position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def _position(node: Node, name: str) -> int | None:
    schema = node.target._schema  # type: ignore[union-attr]
    return next((index for index, entry in enumerate(schema.arguments) if entry.name == name), None)


def linear_operator(layer: WeightedLayer, kernel: Sequence[int]) -> LinearOperator:
    """What the layer does with its weight, whose last axes are ``kernel``."""
    node, num_axes = layer.node, layer.num_axes
    if num_axes == 0:
        return LinearOperator()
    stride, dilation = (_spread(argument(node, option, 1), num_axes) for option in ("stride", "dilation"))
    padding = argument(node, "padding", 0)
    if layer.is_transposed:
        extra = _spread(argument(node, "output_padding", 0), num_axes)
        return LinearOperator(stride, _spread(padding, num_axes), dilation, layer.groups, True, extra)
    if not isinstance(padding, str):
        return LinearOperator(stride, _spread(padding, num_axes), dilation, layer.groups)
    sums = [d * (size - 1) if padding == "same" else 0 for d, size in zip(dilation, kernel, strict=True)]
    half = tuple(total // 2 for total in sums)
    return LinearOperator(stride, half, dilation, layer.groups, end_padding=tuple(total % 2 for total in sums))


def _spread(value: int | Sequence[int], num_axes: int) -> tuple[int, ...]:
    """One number for each axis; a single one stands for all."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * num_axes if len(values) == 1 else values


def weighted_layers(graph: object) -> list[WeightedLayer]:
    """All WEIGHTED nodes of a ``torch.fx.GraphModule``, in the order of computation."""
    return [layer for node in graph.graph.nodes if (layer := weighted_layer(node)) is not None]  # type: ignore[attr-defined]
