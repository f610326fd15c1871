"""Truncated and altered files: a network or one error of halfstep's, nothing else, whatever is damaged."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import halfstep as hs
from halfstep.errors import HalfstepError, ModelError

TEXT = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,3,6,6] x) => (float[N,4] y) {
    a = Conv<pads=[1,1,1,1], strides=[2,2], dilations=[1,1], group=1>(x, conv_weight, conv_bias)
    b = BatchNormalization<epsilon=0.001>(a, scale, shift, mean, variance)
    c = Relu(b)
    p = MaxPool<kernel_shape=[2,2], ceil_mode=1>(c)
    u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(p, , factors)
    s = Slice(u, starts, ends, axes)
    t = Pad(s, pads)
    v = ConvTranspose<strides=[2,2], output_padding=[1,1]>(t, back_weight)
    g1 = GlobalAveragePool(v)
    f = Reshape(g1, shape)
    y = Gemm<transB=1, alpha=0.5>(f, head_weight, head_bias)
}"""


@functools.cache
def file() -> bytes:
    """A network with an operator of most families."""
    random = np.random.default_rng(0)
    shapes = {
        "conv_weight": (5, 3, 3, 3), "conv_bias": (5,), "scale": (5,), "shift": (5,), "mean": (5,), "variance": (5,),
        "back_weight": (5, 4, 3, 3), "head_weight": (4, 4), "head_bias": (4,),
    }  # fmt: skip
    constants = {name: np.abs(random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"factors": np.array([1, 1, 2, 2], np.float32), "starts": np.array([1]), "ends": np.array([4]), "axes": np.array([2])}
    constants |= {"pads": np.array([0, 0, 1, 0, 0, 0, 1, 0]), "shape": np.array([-1, 4])}
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return proto.SerializeToString()


def survive(data: bytes, path: Path) -> None:
    """Read and run it, or end in an error of halfstep's."""
    path.write_bytes(data)
    with contextlib.suppress(HalfstepError):
        model = hs.load_onnx(path)
        with torch.no_grad():
            model(torch.ones(2, 3, 6, 6))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "net.onnx"


def test_the_file_itself_is_sound(path: Path) -> None:
    path.write_bytes(file())
    assert hs.load_onnx(path)(torch.ones(2, 3, 6, 6)).shape == (2, 4)


QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated(path: Path, share: float) -> None:
    """Weights stand at the end: without them nothing is left to read."""
    path.write_bytes(file()[: int(share * len(file()))])
    with pytest.raises(ModelError):
        hs.load_onnx(path)


@QUICK
@given(flips=st.lists(st.tuples(st.integers(0, len(file()) - 1), st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits(path: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(file())
    for place, bit in flips:
        data[place] ^= 1 << bit
    survive(bytes(data), path)


@QUICK
@given(flips=st.lists(st.tuples(st.integers(0, 1400), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_of_the_graph(path: Path, flips: list[tuple[int, int]]) -> None:
    """The nodes stand at the beginning."""
    data = bytearray(file())
    for place, value in flips:
        data[place] = value
    survive(bytes(data), path)


def test_shapes_that_do_not_fit_are_not_logged(path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """PyTorch logs a traceback where tensors without data do not fit together."""
    path.write_bytes(file())
    model = hs.load_onnx(path)
    with pytest.raises(HalfstepError):
        model(torch.ones(2, 4, 6, 6))
    proto = onnx.load(path)
    proto.graph.initializer[0].dims[1], proto.graph.initializer[0].dims[0] = 5, 3
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(HalfstepError, match="Node 'Conv_0'"):
        hs.load_onnx(path)(torch.ones(2, 3, 6, 6))
    assert caplog.text == "" and "Traceback" not in capfd.readouterr().err


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes(path: Path, data: bytes) -> None:
    survive(data, path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x08\x07", b"\x00" * 100, b"not a model"])
def test_what_is_no_model(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ModelError) as error:
        hs.load_onnx(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file"):
        hs.load_onnx(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="There is no file"):
        hs.load_onnx(tmp_path)
