"""halfstep on the sentence encoder: ``halfstep.quantize`` with a shipped recipe or one given as JSON, then the ONNX file, verified.

What compiled solvers need once in a process goes into the part ``warm_up`` and not into the method's seconds.
"""

import argparse
import json
from pathlib import Path

from harness.encoder import encoder, tokens
from harness.peer import Marks
from harness.sentences import CALIBRATION, sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a shipped name, or JSON")
    parser.add_argument("--groups", default="matmul_nbits")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file with the row")
    given = parser.parse_args()
    marks = Marks()
    import torch

    import halfstep as hs
    from halfstep.solvers.compiled import warm_up

    marks.reach("imported")
    model = encoder()
    inputs = tuple(torch.from_numpy(array) for array in tokens(sentences(CALIBRATION)))
    warm_up()
    marks.reach("ready")
    recipe = hs.Recipe.parse(json.loads(given.recipe)) if given.recipe.startswith("{") else hs.Recipe.load(given.recipe)
    result = hs.quantize(model, calibration=[(inputs, None)], recipe=recipe)
    marks.reach("quantized")
    check = hs.export.onnx(result, given.model, groups=given.groups)
    marks.reach("exported")
    row = {
        "marks": marks.as_json(),
        "method_cpu_seconds": marks.cpu["quantized"] - marks.cpu["ready"],
        "stored_bytes": result.record.bytes["quantized"],
        "output_difference": check.max_output_difference,
        "notes": list(result.record.notes),
    }
    given.out.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
