"""The rows of the sentence encoder's benchmark: which script makes them, with which options, and why."""

import json
from dataclasses import dataclass
from typing import Any

HALFSTEP, ORT = "halfstep_encoder.py", "ort_encoder.py"
_FLOAT = {"activations": {"type": "float"}}
_RESIDUAL = {"addends": "float", "overrides": [{"pattern": "*:add*", "activations": "float"}]}


@dataclass(frozen=True)
class Row:
    """One file: ``script`` in peers/, its ``options``, a line for the reader."""

    name: str
    script: str
    options: tuple[str, ...]
    note: str


def _own(name: str, note: str, scheme: dict[str, Any], method: Any = "nearest", smooth: dict[str, Any] | None = None) -> Row:
    before = [] if smooth is None else [{"smooth": smooth}]
    steps = [*before, "place_quantizers", "calibrate", {"round": {"method": method}}]
    return Row(name, HALFSTEP, (json.dumps({"name": name, "scheme": scheme, "steps": steps}),), note)


def _weights(bits: int, group_size: int, method: Any, label: str, symmetric: bool = True, form: str = "matmul_nbits") -> Row:
    sign = "int" if symmetric else "uint"
    scheme = {"weights": {"type": f"{sign}{bits}", "symmetric": symmetric, "group_size": group_size}, **_FLOAT}
    groups = f"_g{group_size}" if group_size else ""
    kind = ("" if symmetric else "_asym") + ("" if form == "matmul_nbits" else "_int8")
    row = _own(f"w{bits}{groups}{kind}_{label}", "", scheme, method)
    words = f"{group_size} inputs a scale" if group_size else "a scale a channel"
    words += "" if symmetric else ", zero points"
    words += "" if form == "matmul_nbits" else "; its kernel rounds activations"
    return Row(row.name, HALFSTEP, (*row.options, "--groups", form), f"{words}; {label}")


_ADAROUND = {"adaround": {"num_iterations": 200, "batch_size": 8}}
_INT8, _INT4 = {"weights": {"type": "int8", "narrow": True}}, {"weights": {"type": "int4"}}
_WIDE, _WITHIN = {"norm_inputs": "uint16", "addends": "uint16"}, {"alpha": "least_error", "insert": False}
ROWS = {
    row.name: row
    for row in (
        Row("float", ORT, ("float",), "torch.onnx.export"),
        Row("transformer_int8", HALFSTEP, ("transformer-int8",), "shipped recipe: sums in 16 bits, integers throughout"),
        Row("int8", HALFSTEP, ("int8",), "shipped recipe: sums in 8 bits too"),
        _own("w8a8", "sums in float, nothing smoothed", _INT8 | _RESIDUAL),
        _own("w8a8_smooth", "the same behind smooth, alpha 0.5, divisions inserted", _INT8 | _RESIDUAL, smooth={"alpha": 0.5}),
        _own("w8a8_smooth_07", "the same, alpha 0.7", _INT8 | _RESIDUAL, smooth={"alpha": 0.7}),
        _own("w4a8", "transformer-int8 with int4 a channel; lattice", _INT4 | _WIDE, "lattice", _WITHIN),
        _own("w4a8_nearest", "transformer-int8 with int4 a channel; nearest", _INT4 | _WIDE, "nearest", _WITHIN),
        _weights(4, 0, "nearest", "nearest"),
        _weights(4, 0, "lattice", "lattice"),
        *(_weights(4, size, method, method) for size in (128, 32) for method in ("nearest", "gptq", "lattice")),
        _weights(4, 32, _ADAROUND, "adaround"),
        *(_weights(4, 32, method, method, symmetric=False) for method in ("nearest", "lattice")),
        _weights(4, 32, "lattice", "lattice", form="matmul_nbits_int8"),
        *(_weights(bits, 32, method, method) for bits in (3, 2) for method in ("nearest", "gptq", "lattice")),
        Row("ort_dynamic", ORT, ("dynamic",), "quantize_dynamic: int8 weights a channel, activations rounded at run time"),
        Row("ort_rtn_g32", ORT, ("rtn", "--group-size", "32"), "MatMulNBitsQuantizer, 4 bits, symmetric, 32 inputs a scale"),
        Row("ort_rtn_g32_asym", ORT, ("rtn", "--group-size", "32", "--asymmetric"), "the same with zero points"),
        Row("ort_rtn_g128", ORT, ("rtn", "--group-size", "128"), "the same, symmetric, 128 inputs a scale"),
        Row("ort_hqq_g32", ORT, ("hqq", "--group-size", "32"), "the same by HQQ, with zero points, 32 inputs a scale"),
    )
}
QUICK_ROWS = ("float", "w4_g32_nearest", "ort_rtn_g32")
