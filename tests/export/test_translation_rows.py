"""Every row of the translation tables computes what PyTorch computes, for more than one batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from halfstep.export.mark import mark
from halfstep.export.rewrite import rewrite
from halfstep.export.session import open_session, run_session
from halfstep.export.translate import TRANSLATIONS, translate
from halfstep.graph.capture import capture
from halfstep.graph.run import run

Function = Callable[[Tensor], Any]
WEIGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
SLOPE = torch.linspace(0.1, 0.4, 4)
aten = torch.ops.aten


def conv(x: Tensor, num_axes: int, **options: Any) -> Tensor:
    kernel = torch.linspace(-1, 1, 6 * 4 * 3**num_axes).reshape(6, 4, *[3] * num_axes)
    return (F.conv1d, F.conv2d, F.conv3d)[num_axes - 1](x, kernel, torch.arange(6.0), **options)


def transposed(x: Tensor, num_axes: int) -> Tensor:
    kernel = torch.linspace(-1, 1, 4 * 2 * 3**num_axes).reshape(4, 2, *[3] * num_axes)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[num_axes - 1]
    return function(x, kernel, None, 2, 1, 1, 2)


_FUNCTIONS = ("relu", "neg", "abs", "sign", "exp", "sin", "cos", "erf", "floor", "ceil", "round", "sigmoid", "tanh")
_ACTIVATIONS = ("relu6", "silu", "gelu", "mish", "elu", "selu", "leaky_relu", "hardswish", "hardsigmoid")
_OF_POSITIVES = ("sqrt", "rsqrt", "log", "log1p", "reciprocal", "square")
_COMPARISONS = ("eq", "ne", "gt", "ge", "lt", "le")
VECTOR, LINE, IMAGE, FILM = (4,), (4, 10), (4, 8, 10), (4, 4, 6, 8)
CASES: list[tuple[str, tuple[int, ...], Function]] = [
    # layers
    ("conv1d.default", LINE, lambda x: conv(x, 1, stride=2, padding=1)),
    ("conv2d.default", IMAGE, lambda x: conv(x, 2, dilation=2, padding=(1, 2))),
    ("conv3d.default", FILM, lambda x: conv(x, 3)),
    ("conv1d.padding", LINE, lambda x: conv(x, 1, padding="valid")),
    ("conv2d.padding", IMAGE, lambda x: conv(x, 2, padding="same", dilation=(2, 1))),
    ("conv3d.padding", FILM, lambda x: conv(x, 3, padding="same")),
    ("conv_transpose1d.default", LINE, lambda x: transposed(x, 1)),
    ("conv_transpose2d.input", IMAGE, lambda x: transposed(x, 2)),
    ("conv_transpose3d.input", FILM, lambda x: transposed(x, 3)),
    ("linear.default", VECTOR, lambda x: F.linear(x, WEIGHT, torch.arange(6.0))),
    ("linear.default", (3, 4), lambda x: F.linear(x, WEIGHT, torch.arange(6.0))),
    ("matmul.default", IMAGE, lambda x: x @ x.mT),
    ("bmm.default", LINE, lambda x: torch.bmm(x, x.mT)),
    ("mm.default", VECTOR, lambda x: torch.mm(x, WEIGHT.T.abs() + x.sum() * 0)),
    ("addmm.default", VECTOR, lambda x: torch.addmm(torch.arange(6.0), x, WEIGHT.T, beta=0.5, alpha=2)),
    ("baddbmm.default", LINE, lambda x: torch.baddbmm(x[:, :, :4], x, x.mT)),
    ("einsum.default", IMAGE, lambda x: torch.einsum("bchw,bcwk->bhk", x, x.mT)),
    # pooling
    ("max_pool1d.default", LINE, lambda x: F.max_pool1d(x, 3, 2, 1)),
    ("max_pool2d.default", IMAGE, lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
    ("max_pool2d.default", (4, 16, 16), lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)),
    ("max_pool1d.default", (4, 5), lambda x: F.max_pool1d(x, 2, 2, 1, ceil_mode=True)),  # a window behind the end is left out
    ("max_pool1d.default", (4, 12), lambda x: F.max_pool1d(x, 3, 3, 1, dilation=2, ceil_mode=True)),
    ("max_pool3d.default", FILM, lambda x: F.max_pool3d(x, 2)),
    ("avg_pool1d.default", LINE, lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False)),
    ("avg_pool2d.default", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1)),
    ("avg_pool2d.default", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True)),
    ("avg_pool2d.default", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
    ("avg_pool1d.default", (4, 16), lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True)),
    ("avg_pool2d.default", (4, 16, 16), lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
    ("avg_pool3d.default", FILM, lambda x: F.avg_pool3d(x, 2)),
    ("adaptive_avg_pool1d.default", LINE, lambda x: F.adaptive_avg_pool1d(x, 1)),
    ("adaptive_avg_pool2d.default", IMAGE, lambda x: F.adaptive_avg_pool2d(x, (4, 5))),
    ("adaptive_avg_pool2d.default", IMAGE, lambda x: F.adaptive_avg_pool2d(x, (3, 7))),
    ("adaptive_avg_pool3d.default", FILM, lambda x: F.adaptive_avg_pool3d(x, (1, 1, 1))),
    ("adaptive_avg_pool3d.default", FILM, lambda x: F.adaptive_avg_pool3d(x, (3, 4, 5))),
    ("upsample_nearest1d.vec", LINE, lambda x: F.interpolate(x, 7)),
    ("upsample_nearest2d.vec", IMAGE, lambda x: F.interpolate(x, scale_factor=2)),
    ("upsample_nearest3d.vec", FILM, lambda x: F.interpolate(x, scale_factor=(1, 2, 1))),
    ("upsample_linear1d.vec", LINE, lambda x: F.interpolate(x, 15, mode="linear")),
    ("upsample_bilinear2d.vec", IMAGE, lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear")),
    ("upsample_bilinear2d.vec", IMAGE, lambda x: F.interpolate(x, (3, 13), mode="bilinear", align_corners=True)),
    ("upsample_bilinear2d.vec", IMAGE, lambda x: F.interpolate(x, (1, 20), mode="bilinear")),
    ("upsample_trilinear3d.vec", FILM, lambda x: F.interpolate(x, (5, 7, 9), mode="trilinear")),
    ("upsample_bicubic2d.vec", IMAGE, lambda x: F.interpolate(x, (11, 5), mode="bicubic")),
    ("pixel_shuffle.default", IMAGE, lambda x: F.pixel_shuffle(x, 2)),
    ("pixel_unshuffle.default", IMAGE, lambda x: F.pixel_unshuffle(x, 2)),
    # functions of one number
    *[(f"{name}.default", VECTOR, getattr(torch, name)) for name in _FUNCTIONS],
    *[(f"{name}.default", VECTOR, getattr(F, name)) for name in _ACTIVATIONS],
    ("gelu.default", VECTOR, lambda x: F.gelu(x, approximate="tanh")),
    *[(f"{f}.default", VECTOR, lambda x, f=f: getattr(torch, f)(x.abs() + 0.1)) for f in _OF_POSITIVES],
    ("log_sigmoid.default", VECTOR, F.logsigmoid),
    ("softplus.default", VECTOR, F.softplus),
    ("prelu.default", IMAGE, lambda x: F.prelu(x, SLOPE)),
    ("hardtanh.default", VECTOR, lambda x: F.hardtanh(x, -0.5, 0.25)),
    ("clamp.default", VECTOR, lambda x: x.clamp(-0.5, 0.25)),
    ("clamp_min.default", VECTOR, lambda x: x.clamp_min(0.1)),
    ("clamp_max.default", VECTOR, lambda x: x.clamp_max(0.1)),
    ("minimum.default", VECTOR, lambda x: x.clamp(-SLOPE, SLOPE)),  # capture writes a clamp between tensors so
    ("pow.Tensor_Scalar", VECTOR, lambda x: x.abs() ** 1.5 + x**2),
    ("pow.Tensor_Tensor", VECTOR, lambda x: x.abs() ** SLOPE),
    ("pow.Scalar", VECTOR, lambda x: 2.0**x),
    # arithmetic
    ("add.Tensor", VECTOR, lambda x: torch.add(x, SLOPE, alpha=2) + 1),
    ("sub.Tensor", VECTOR, lambda x: (x - 3) * (x - SLOPE)),
    ("rsub.Scalar", VECTOR, lambda x: torch.rsub(x, 3)),
    ("mul.Tensor", VECTOR, lambda x: x * SLOPE * torch.arange(4) * (x > 0)),
    ("div.Tensor", VECTOR, lambda x: x / 3),
    ("div.Tensor_mode", VECTOR, lambda x: torch.div(x, 0.3, rounding_mode="floor")),
    ("minimum.default", VECTOR, lambda x: torch.minimum(x, SLOPE)),
    ("maximum.default", VECTOR, lambda x: torch.maximum(x, SLOPE)),
    ("min.other", VECTOR, lambda x: torch.min(x, SLOPE)),
    ("max.other", VECTOR, lambda x: torch.max(x, SLOPE)),
    # comparisons and choices
    *[(f"{name}.Scalar", VECTOR, lambda x, f=name: getattr(torch, f)(x.round(), 1)) for name in _COMPARISONS],
    *[(f"{name}.Tensor", VECTOR, lambda x, f=name: getattr(torch, f)(x, x.flip(1))) for name in _COMPARISONS],
    ("logical_not.default", VECTOR, lambda x: torch.logical_not(x > 0)),
    ("bitwise_not.default", VECTOR, lambda x: ~(x > 0)),
    ("logical_and.default", VECTOR, lambda x: torch.logical_and(x > 0, x < 1)),
    ("bitwise_and.Tensor", VECTOR, lambda x: aten.bitwise_and.Tensor(x > 0, x < 1)),
    ("__and__.Tensor", VECTOR, lambda x: (x > 0) & (x < 1)),
    ("logical_or.default", VECTOR, lambda x: torch.logical_or(x > 0, x < -1)),
    ("bitwise_or.Tensor", VECTOR, lambda x: aten.bitwise_or.Tensor(x > 0, x < -1)),
    ("__or__.Tensor", VECTOR, lambda x: (x > 0) | (x < -1)),
    ("where.self", VECTOR, lambda x: torch.where(x > 0, x, SLOPE)),
    ("where.ScalarOther", VECTOR, lambda x: aten.where.ScalarOther(x > 0, x, 3)),
    ("where.ScalarSelf", VECTOR, lambda x: aten.where.ScalarSelf(x > 0, 3, x)),
    ("where.Scalar", VECTOR, lambda x: aten.where.Scalar(x > 0, 2, 3.5)),
    ("masked_fill.Scalar", VECTOR, lambda x: x.masked_fill(x > 0, -2)),
    ("masked_fill.Tensor", VECTOR, lambda x: x.masked_fill(x > 0, torch.tensor(-2.0) + x.sum() * 0)),
    ("to.dtype", VECTOR, lambda x: (3 * x).to(torch.int64)),
    ("to.device", VECTOR, lambda x: aten.to.device(x, "cpu", torch.int32)),
    ("to.dtype_layout", VECTOR, lambda x: aten.to.dtype_layout(x, dtype=torch.int32)),
    ("to.other", VECTOR, lambda x: aten.to.other(x > 0, x)),
    ("type_as.default", VECTOR, lambda x: (x > 0).type_as(x)),
    ("_to_copy.default", VECTOR, lambda x: aten._to_copy.default(x, dtype=torch.int64)),
    ("clone.default", VECTOR, lambda x: x.clone() + 1),
    ("contiguous.default", LINE, lambda x: x.mT.contiguous() + 1),
    ("alias.default", VECTOR, lambda x: aten.alias.default(x) + 1),
    ("detach.default", VECTOR, lambda x: x.detach() + 1),
    # shapes
    ("view.default", IMAGE, lambda x: aten.view.default(x, [-1, 20])),
    ("reshape.default", IMAGE, lambda x: x.reshape(x.shape[0] * 4, 80)),
    ("flatten.using_ints", IMAGE, lambda x: x.flatten(2) + x.flatten(0, 1).reshape(-1, 4, 80)),
    ("unflatten.int", LINE, lambda x: x.unflatten(-1, (5, -1))),
    ("squeeze.default", (1, 4), lambda x: torch.cat([x, x]).squeeze()),
    ("squeeze.dim", (1, 4), lambda x: x.squeeze(1)),
    ("squeeze.dims", (1, 4, 1), lambda x: x.squeeze((1, 3))),
    ("unsqueeze.default", LINE, lambda x: x.unsqueeze(-2)),
    ("reshape_as.default", LINE, lambda x: x.reshape_as(x.mT)),
    ("view_as.default", LINE, lambda x: x.view_as(x.mT.contiguous())),
    ("_unsafe_view.default", LINE, lambda x: aten._unsafe_view.default(x, [-1, 40])),
    ("permute.default", IMAGE, lambda x: x.permute(0, -1, 1, 2)),
    ("transpose.int", IMAGE, lambda x: x.transpose(-1, 1)),
    ("swapaxes.default", IMAGE, lambda x: aten.swapaxes.default(x, 1, 3)),
    ("t.default", VECTOR, lambda x: x.t().reshape(-1, 4)),
    ("mT.default", IMAGE, aten.mT.default),
    ("numpy_T.default", VECTOR, lambda x: x.T.reshape(-1, 4)),
    ("movedim.int", IMAGE, lambda x: torch.movedim(x, 1, -1)),
    ("movedim.intlist", IMAGE, lambda x: torch.movedim(x, (1, 2), (3, 1))),
    # parts
    ("cat.default", LINE, lambda x: torch.cat([x, x[:, :2], torch.ones(1, 1, 10).expand(len(x), -1, -1)], 1)),
    ("slice.Tensor", IMAGE, lambda x: x[:, 1:, ::2, -3:]),
    ("narrow.default", IMAGE, lambda x: x.narrow(2, 1, 4)),
    ("select.int", IMAGE, lambda x: x[:, :, -1]),
    ("split.Tensor", IMAGE, lambda x: x.split(3, 2)[2]),
    ("split.sizes", IMAGE, lambda x: aten.split.sizes(x, [3, 5], 2)[1]),
    ("split_with_sizes.default", IMAGE, lambda x: x.split([3, 5], 2)[1]),
    ("chunk.default", IMAGE, lambda x: x.chunk(3, -1)[2] + x.chunk(1, 1)[0][..., :2]),
    ("unbind.int", IMAGE, lambda x: x.unbind(1)[2]),
    ("roll.default", IMAGE, lambda x: x.roll((2, -3), (2, 3))),
    ("flip.default", IMAGE, lambda x: x.flip((1, 3))),
    ("pad.default", IMAGE, lambda x: F.pad(x, (1, 2, 0, 3), mode="reflect") + F.pad(x, (1, 2, 0, 3), mode="replicate")),
    ("pad.default", IMAGE, lambda x: F.pad(x, (1, 2, 3, 0), mode="circular") + F.pad(x, (1, 2, 3, 0), value=0.5)),
    ("constant_pad_nd.default", IMAGE, lambda x: aten.constant_pad_nd.default(x, [1, -2], 0.5)),
    ("im2col.default", IMAGE, lambda x: F.unfold(x, (3, 2), 2, (1, 0), (2, 1))),
    ("col2im.default", IMAGE, lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), x.shape[2:], 3, padding=1, stride=2)),
    ("channel_shuffle.default", IMAGE, lambda x: F.channel_shuffle(x, 2)),
    # copies and indices
    ("expand.default", VECTOR, lambda x: torch.ones(1, 4).expand(x.shape[0], -1) + x.unsqueeze(1).expand(-1, 3, -1).sum(1)),
    ("expand_as.default", VECTOR, lambda x: torch.ones(1, 1).expand_as(x) + x.sum(1, keepdim=True).expand_as(x)),
    ("broadcast_to.default", VECTOR, lambda x: torch.broadcast_to(x.mean(1, keepdim=True), x.shape)),
    ("full.default", VECTOR, lambda x: torch.full((x.shape[0], 3), 2.5)),
    ("zeros.default", VECTOR, lambda x: torch.zeros(x.shape[0] * 2, 3)),
    ("ones.default", VECTOR, lambda x: torch.ones(x.shape[0], dtype=torch.int64)),
    ("full_like.default", VECTOR, lambda x: torch.full_like(x, 2.5)),
    ("zeros_like.default", VECTOR, torch.zeros_like),
    ("ones_like.default", VECTOR, torch.ones_like),
    ("repeat.default", VECTOR, lambda x: x.repeat(1, 2) + torch.ones(1, 8).repeat(x.shape[0], 1)),
    ("repeat_interleave.self_int", LINE, lambda x: x.repeat_interleave(3, 1)),
    ("index_select.default", LINE, lambda x: x.index_select(1, torch.tensor([2, 0]))),
    ("index.Tensor", LINE, lambda x: x[:, torch.tensor([[2, 0], [1, 3]])]),
    ("index.Tensor", LINE, lambda x: x[torch.arange(x.shape[0])[:, None], torch.tensor([2, 0])]),
    ("arange.default", VECTOR, lambda x: torch.arange(x.shape[0])),
    ("embedding.default", VECTOR, lambda x: F.embedding((x > 0).long(), WEIGHT)),
    ("gather.default", LINE, lambda x: x.gather(1, (x > 0).long())),
    ("tril.default", LINE, lambda x: x.tril(1)),
    ("triu.default", LINE, lambda x: x.triu(-1)),
    # normalizations and reductions
    ("layer_norm.default", LINE, lambda x: F.layer_norm(x, (10,), torch.arange(10.0)) + F.layer_norm(x, (4, 10))),
    ("rms_norm.default", LINE, lambda x: F.rms_norm(x, (10,), torch.arange(10.0), 1e-5) + F.rms_norm(x, (4, 10))),
    ("group_norm.default", IMAGE, lambda x: F.group_norm(x, 2, SLOPE, SLOPE)),
    ("instance_norm.default", IMAGE, lambda x: F.instance_norm(x, weight=SLOPE) + F.instance_norm(x)),
    ("softmax.int", IMAGE, lambda x: x.softmax(1)),
    ("log_softmax.int", IMAGE, lambda x: x.log_softmax(-1)),
    ("mean.dim", IMAGE, lambda x: x.mean((2, 3), keepdim=True) + x.mean(1, keepdim=True)),
    ("sum.dim_IntList", IMAGE, lambda x: x.sum(-1)),
    ("sum.default", IMAGE, lambda x: x.sum() + x),
    ("amax.default", IMAGE, lambda x: x.amax((1, 2))),
    ("amin.default", IMAGE, lambda x: x.amin(1, keepdim=True)),
    ("max.dim", IMAGE, lambda x: x.max(1)[0] + x.max(1)[1]),
    ("min.dim", IMAGE, lambda x: x.min(2, keepdim=True)[0]),
    ("argmax.default", IMAGE, lambda x: x.argmax(1)),
    ("argmin.default", IMAGE, lambda x: x.argmin(-1, keepdim=True)),
    ("var.dim", IMAGE, lambda x: aten.var.dim(x, [1, 2])),
    ("var.correction", IMAGE, lambda x: x.var((1, 2), correction=0, keepdim=True)),
    ("std.dim", IMAGE, lambda x: aten.std.dim(x, [1])),
    ("std.correction", IMAGE, lambda x: x.std(1, correction=1)),
    ("linalg_vector_norm.default", IMAGE, lambda x: F.normalize(x, dim=1) + x.norm(1, -1, keepdim=True)),
    ("cumsum.default", IMAGE, lambda x: x.cumsum(2)),
    # recurrent layers
    ("lstm.input", LINE, nn.LSTM(10, 5, batch_first=True)),
    ("lstm.input", LINE, nn.LSTM(10, 5, 3, bias=False, bidirectional=True)),
    ("gru.input", LINE, nn.GRU(10, 5, 2, batch_first=True, bidirectional=True)),
    ("gru.input", LINE, nn.GRU(10, 5, bias=False)),
]  # fmt: skip
NOT_RECORDED = {
    "dropout.default": "a module in every graph",
    "detach.default": "torch.export takes it out",
    "alias.default": "torch.export takes it out",
    "view.default": "capture writes reshape",
}


@pytest.mark.parametrize(("name", "shape", "function"), CASES, ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)])
def test_it_computes_what_pytorch_computes(name: str, shape: tuple[int, ...], function: Function) -> None:
    """In another batch size than the one recorded; float32 sums in another order, 1e-5 of the largest value."""
    network = zoo.Applied(function)
    graph = capture(network, (torch.randn(2, *shape),))
    targets = {str(node.target).removeprefix("aten.") for node in graph.graph.nodes}
    assert name in targets or name in NOT_RECORDED
    marked = mark(graph)
    session = open_session(_bytes(rewrite(translate(marked.graph), marked)))
    x = torch.randn(graph.meta["batch_size"] or 3, *shape)
    for ours, theirs in zip(run_session(session, (x,)).values(), zoo.leaves(run(graph, (x,))), strict=True):
        assert ours.dtype == theirs.numpy().dtype and ours.shape == tuple(theirs.shape)
        assert zoo.relative(torch.from_numpy(ours).float(), theirs.float()) <= 1e-5


def test_every_row_is_tried() -> None:
    assert {name for name, _, _ in CASES} | set(NOT_RECORDED) == set(TRANSLATIONS)


def _bytes(model: Any) -> bytes:
    import onnx_ir as ir

    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized
