"""Files that ask for far more than they hold: each ends in one clear error, within seconds and without the memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

# One process reads all: it says of each file how long it took, how far the peak of its memory rose, and what the error was.
READER = """
import json, resource, sys, time
import halfstep as hs
from halfstep.errors import HalfstepError
from halfstep.onnx_import.load import load_onnx
import halfstep.onnx_import.model, halfstep.onnx_import.network, onnx.inliner, torch
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
def read(path):
    if path.endswith(".onnx"):
        load_onnx(path)(torch.ones(2, 3))
    elif path.endswith(".yaml"):
        hs.Recipe.load(path)
    elif path.endswith(".pt2"):
        hs.load_model(path)
    else:
        list(hs.load_data(path).batches(1))
for path in sys.argv[1:]:
    before, start = peak(), time.process_time()
    try:
        read(path)
        error = None
    except HalfstepError as caught:
        error = str(caught)
    print(json.dumps([time.process_time() - start, peak() - before, error]), flush=True)
"""


def npy(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """The head of an array and 16 bytes of it."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": shape})
    return head.getvalue() + bytes(16)


def archive(path: Path, name: str, content: bytes, repeat: int = 1) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open(name, "w", force_zip64=True) as member:
        for _ in range(repeat):
            member.write(content)


def bomb(path: Path) -> None:
    head = npy((400, 1024, 1024, 1))[:-16]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("images.npy", "w", force_zip64=True) as member:
        member.write(head)
        for _ in range(400):
            member.write(bytes(1 << 20))


def model(nodes: list[onnx.NodeProto], functions: tuple[onnx.FunctionProto, ...] = (), **constants: list[int]) -> bytes:
    stored = [helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "hostile", [x], [y], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8).SerializeToString()


def doubling(depth: int, last: str) -> bytes:
    """Functions that each call the next twice; the last one calls ``last``."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def calls(name: str, domain: str) -> list[onnx.NodeProto]:
        return [helper.make_node(name, ["a"], ["b"], domain=domain), helper.make_node(name, ["b"], ["c"], domain=domain)]

    inner = [helper.make_function("own", f"f{i}", ["a"], ["c"], calls(f"f{i + 1}", "own"), opsets) for i in range(depth - 1)]
    end = helper.make_function("own", f"f{depth - 1}", ["a"], ["c"], calls(last, "own" if last[0] == "f" else ""), opsets)
    return model([helper.make_node("f0", ["x"], ["y"], domain="own")], (*inner, end))


def grown(operator: str, **constants: list[int]) -> bytes:
    names = list(constants)
    nodes = [
        helper.make_node(operator, names, ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "real"], ["y"]),
    ]
    return model(nodes, **constants)


def nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs, encoded by hand: protobuf itself refuses to."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"If") + field(5, attribute))
    return b"\x08\x08" + field(7, graph + field(12, field(1, b"y"))) + field(8, b"\x10\x11")


def png(width: int, height: int) -> bytes:
    """An image of 300 x 300 pixels that says it has another size."""
    file = io.BytesIO()
    Image.new("1", (300, 300)).save(file, "PNG")
    head = b"IHDR" + struct.pack(">II", width, height) + file.getvalue()[24:29]
    return file.getvalue()[:12] + head + struct.pack(">I", zlib.crc32(head)) + file.getvalue()[33:]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(trace) (w) file closefile\nshowpage\n"
ROWS = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True))


def image(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "image.png").write_bytes(content)

    return write


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "doubling.onnx": (write(doubling(20, "Relu")), "more than 262,144 nodes"),
    "recursion.onnx": (write(doubling(3, "f0")), "calls itself"),
    "nested.onnx": (write(nested(3000)), "nested.onnx"),
    "expand.onnx": (write(grown("Expand", v=[1], s=[1 << 36])), "values"),
    "filled.onnx": (write(grown("ConstantOfShape", s=[1 << 18, 1 << 18])), "values"),
    "tile.onnx": (write(grown("Tile", v=[1], s=[1 << 36])), "values"),
    "lives.onnx": (write(model([helper.make_node("Expand", ["x", "s"], ["y"])], s=[1 << 35, 2, 3])), "more than any network's"),
    "aliases.yaml": (write(f"a: &a [x]\n{ROWS}".encode()), "aliases"),
    "deep.yaml": (write(b"[" * 3000 + b"]" * 3000), "levels deep"),
    "base60.yaml": (write(b"a: " + b":".join([b"59"] * 3000)), "digits"),
    "large.yaml": (write(b"a: " + b"x" * (2 << 20)), "more than 1 MB"),
    "group.yaml": (write(b"name: a\nsteps: [calibrate]\nscheme: {weights: {type: int4, group_size: 1099511627776}}"), "group_size"),
    "shape.npz": (lambda path: archive(path, "images.npy", npy((1 << 40, 8, 8))), "claims the shape"),
    "objects.npz": (lambda path: archive(path, "images.npy", npy((1 << 40,), "|O")), "pickled"),
    "other.npz": (lambda path: archive(path, "images", b"no array"), "damaged"),
    "nothing.npz": (lambda path: archive(path, "word/document.xml", b"<a/>"), "no array 'images'"),
    "bomb.npz": (bomb, "unpacks to"),
    "shape.npy": (write(npy((1 << 40, 8, 8))), "claims the shape"),
    "negative.npy": (write(npy((-1, 8, 8))), "negative.npy"),
    "bomb.pt2": (lambda path: archive(path, "net/models/model.json", bytes(1 << 20), 128), "unpacks to"),
    "eps": (image(EPS), "image.png is not an image"),
    "huge": (image(png(40_000, 40_000)), "image.png"),
    "large": (image(png(9_000, 9_000)), "Make it smaller"),
    "cut": (image(png(300, 300)[:-30]), "image.png"),
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, int, str | None]]:
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in FILES.items():
        make(folder / name)
    paths = [str(folder / name) for name in FILES]
    done = subprocess.run([sys.executable, "-c", READER, *paths], capture_output=True, text=True, timeout=120, cwd=folder, check=False)
    lines = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(lines) == len(FILES) and not (folder / "trace").exists(), done.stderr[-2000:]
    return dict(zip(FILES, lines, strict=True))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_asks_for_too_much(name: str, found: dict[str, tuple[float, int, str | None]]) -> None:
    seconds, growth, error = found[name]
    assert error is not None and FILES[name][1] in error and "\n" not in error, error
    assert seconds < 5 and growth < 1 << 30, (seconds, growth)


def test_lying_heads_of_safetensors(tmp_path: Path) -> None:
    import halfstep as hs
    from halfstep.errors import ModelError

    (tmp_path / "net.py").write_text("from torch import nn\nnet = nn.Linear(2, 2)\n")
    huge = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    for head in (struct.pack("<Q", len(huge)) + huge, struct.pack("<Q", 1 << 62) + b"{", struct.pack("<Q", 9000) + b"[" * 9000):
        (tmp_path / "weights.safetensors").write_bytes(head)
        with pytest.raises(ModelError, match=r"weights\.safetensors"):
            hs.load_model(f"{tmp_path / 'net.py'}:net", tmp_path / "weights.safetensors")
