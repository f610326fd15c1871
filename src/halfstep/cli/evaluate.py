"""``halfstep evaluate``: top-1 accuracy of a network, of a run directory, or of an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.options import PreprocessingOptions, load_labelled
from halfstep.cli.terminal import output, table, write_json
from halfstep.data import Data, Preprocessing
from halfstep.report import words
from halfstep.workflow.result import ONNX_FILE, RECIPE_FILE

EXAMPLE = "Example: halfstep evaluate digits-int8 --data digits:test"
ROWS = {"float": "float", "simulated": "simulated", "onnx": "ONNX Runtime", "integer": "integer program"}
METRIC = "top1"


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_DIR",
            help="A run directory of 'halfstep quantize', an exported .onnx file, or a network as 'halfstep quantize' takes it.",
        ),
    ],
    data: options.LabelledData,
    state_dict: options.StateDict = None,
    strip_quantization: options.StripQuantization = False,
    allow_changed: options.AllowChanged = False,
    json: options.Json = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    size: options.Size = None,
    crop: options.Crop = None,
) -> None:
    """Print the top-1 accuracy on labelled data. A run directory gives float, simulated, its ONNX file in ONNX Runtime and
    its integer program, if it holds one.

    A run remembers its preprocessing; the options below replace it. An .onnx file is run in ONNX Runtime, and with --strip-quantization
    here, as the float network in it.
    """
    given = PreprocessingOptions(mean, std, scale, size, crop).parse()
    path = Path(model)
    if path.is_dir() and not strip_quantization:
        result = hs.load(path, allow_changed)
        labelled = load_labelled(data, given or result.recipe.preprocessing, "--data")
        values = evaluate_run(result, path, labelled)
    elif path.suffix.lower() == ".onnx" and not strip_quantization:
        labelled = load_labelled(data, given or preprocessing_beside(path), "--data")
        values = {"onnx": hs.evaluate(path, labelled)}
    else:
        labelled = load_labelled(data, given or preprocessing_beside(path), "--data")
        values = {"float": hs.evaluate(hs.load_model(model, state_dict, strip_quantization), labelled)}
    if json is not None:
        write_json({"model": model, "data": labelled.name, "metric": METRIC, **{name: values.get(name) for name in ROWS}}, json)
    shown = table(model, words.metric_name(METRIC))
    for name, value in values.items():
        shown.add_row(ROWS[name], words.metric_value(METRIC, value))
    output().print(shown)


def evaluate_run(result: hs.Result, folder: Path, data: Data) -> dict[str, float]:
    """Percent of right answers of each form of the network that the run in ``folder`` holds."""
    values = {"float": hs.evaluate(result.float_model, data), "simulated": hs.evaluate(result.model, data)}
    exported = folder / ONNX_FILE
    if exported.is_file():
        values["onnx"] = hs.evaluate(exported, data)
    if result.program is not None:
        values["integer"] = hs.evaluate(result.program, data)
    return values


def preprocessing_beside(path: Path) -> Preprocessing | None:
    """The preprocessing of the run that the exported file lies in, if it lies in one."""
    recipe = path.parent / RECIPE_FILE
    return hs.Recipe.load(recipe).preprocessing if recipe.is_file() else None
