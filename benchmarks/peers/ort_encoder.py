"""ONNX Runtime's own tools on the sentence encoder: the float file, ``quantize_dynamic``, and ``MatMulNBitsQuantizer`` at 4 bits.

``rtn``: its default algorithm, nearest rounding. ``hqq``: half-quadratic quantization. All start from the file that torch.onnx.export
writes, at ``--source``.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from harness.encoder import encoder, tokens
from harness.peer import Marks, one_thread_sessions
from harness.sentences import CALIBRATION, sentences


def export(path: Path) -> None:
    import torch

    model, batch = encoder(), torch.export.Dim("batch", min=1)
    example = tuple(torch.from_numpy(array) for array in tokens(sentences(CALIBRATION)[:2]))  # a mask of ones would be left out
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, example, str(path), dynamo=True, verbose=False, external_data=False, opset_version=21,
            input_names=["ids", "mask"], dynamic_shapes=({0: batch}, {0: batch}),
        )  # fmt: skip


def quantized(method: str, source: Path, path: Path, group_size: int, is_symmetric: bool) -> None:
    if method == "dynamic":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)
        return
    from onnxruntime.quantization import matmul_nbits_quantizer as tool

    named: dict[str, Any] = {"block_size": group_size, "is_symmetric": is_symmetric, "accuracy_level": 1}
    if method == "hqq":
        named = {"algo_config": tool.HQQWeightOnlyQuantConfig(block_size=group_size)}
    import onnx

    quantizer = tool.MatMulNBitsQuantizer(onnx.load(source), **named)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=("float", "dynamic", "rtn", "hqq"))
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--source", type=Path, required=True, help="the float ONNX file, which the method 'float' writes")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file with the row")
    given = parser.parse_args()
    marks = Marks()
    one_thread_sessions()
    marks.reach("ready")
    if given.method == "float":
        export(given.source)
    else:
        quantized(given.method, given.source, given.model, given.group_size, not given.asymmetric)
    marks.reach("quantized")
    row = {"marks": marks.as_json(), "method_cpu_seconds": marks.cpu["quantized"] - marks.cpu["ready"]}
    given.out.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
