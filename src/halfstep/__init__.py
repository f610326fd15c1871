"""halfstep: a trained network in, a low-bit integer network out, verified.

import halfstep as hs

result = hs.quantize(model, calibration=loader, recipe="int8")      # a new model; yours is untouched
hs.export.onnx(result, "model.onnx")                                 # executed and compared before it gets its name
print(result.report(evaluate=hs.top1, data=validation))
"""

from halfstep import export
from halfstep.data import Data, Preprocessing, as_data, load_data
from halfstep.errors import HalfstepError
from halfstep.grid import Grid, Quantized
from halfstep.integer.program import IntegerProgram
from halfstep.onnx_import.load import load_onnx
from halfstep.recipes import Recipe
from halfstep.runtimes import check_onnx
from halfstep.workflow.evaluate import evaluate, top1
from halfstep.workflow.finetune import Prepared, finetune, prepare
from halfstep.workflow.load_model import load_model
from halfstep.workflow.lower import lower
from halfstep.workflow.quantize import quantize
from halfstep.workflow.result import Result, load

__version__ = "0.1.0"

__all__ = [
    "Data", "Grid", "HalfstepError", "IntegerProgram", "Prepared", "Preprocessing", "Quantized", "Recipe", "Result",
    "as_data", "check_onnx", "evaluate", "export", "finetune", "load", "load_data", "load_model", "load_onnx", "lower", "prepare",
    "quantize", "top1",
]  # fmt: skip
