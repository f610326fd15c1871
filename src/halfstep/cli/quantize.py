"""``halfstep quantize``: from a trained network and some inputs to a run directory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.options import PreprocessingOptions
from halfstep.cli.run import Wanted, run
from halfstep.cli.terminal import say
from halfstep.data import Data, load_data

EXAMPLE = (
    "Example: halfstep quantize halfstep.demo.network:digits_network --data digits:calibration --validation digits:test "
    "--recipe int8 --out digits-int8"
)
_MOST_SAMPLES, _MOST_HELD_OUT = 512, 64
NOT_EVALUATED = "Accuracy was not evaluated: pass --validation DATA with labelled inputs that the network is not calibrated on."


def quantize(
    model: options.Model,
    data: options.Calibration,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the run goes: a new or empty folder.", show_default=False)],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="A name from 'halfstep list recipes', or a YAML file.")
    ] = "int8",
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="TYPE", help="Type of the weights instead of the recipe's: int8, int4 ...", show_default=False),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            "--activations", metavar="TYPE", help="Type of the activations instead of the recipe's: uint8, int8 ...", show_default=False
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            metavar="NUMBER",
            help="Inputs of a linear layer's output channel that share a scale, instead of the recipe's: 16, 32, 64 ...; 0: all of them.",
            show_default=False,
        ),
    ] = None,
    target: options.Target = None,
    requantization: options.AlsoLowered = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            help="How many inputs to calibrate on; by default 512, of fewer than that all but an eighth, on which the result is judged.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    validation: Annotated[
        str | None,
        typer.Option(
            "--validation",
            metavar="DATA",
            help="Inputs to judge the result on, in any of the forms of --data; with labels, to evaluate on.",
            show_default=False,
        ),
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            "--statistics", metavar="DIR", help="Take the calibration statistics of this run instead of gathering them.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where the same command was interrupted or failed, to the same bytes."),
    ] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Time the exported file in ONNX Runtime against the float network.")] = False,
    state_dict: options.StateDict = None,
    strip_quantization: options.StripQuantization = False,
    force: options.Force = False,
    json: options.Json = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    size: options.Size = None,
    crop: options.Crop = None,
) -> None:
    """Quantize a trained network, export it to ONNX, check the export against the simulation, and write a report.

    The run directory appears with the quantized network, before the export; where that fails, the network stays. With a recipe that looks
    at data layer by layer, a run that was interrupted or failed can be continued with --resume, and torchrun shares the work out
    over several processes: torchrun --nproc-per-node 2 -m halfstep.cli quantize ...

    The run directory holds model.onnx, report.html, result.json, recipe.yaml, the quantized model and the calibration statistics, and with
    --requantization the integer program.
    """
    chosen = hs.Recipe.load(recipe)
    if weights is not None or activations is not None:
        chosen = chosen.with_types(weights=weights, activations=activations)
    if group_size is not None:
        chosen = chosen.with_group_size(group_size)
    if target is not None:
        chosen = chosen.with_target(target)
    if requantization is not None:
        chosen = chosen.with_requantization(requantization)
    preprocessing = PreprocessingOptions(mean, std, scale, size, crop).parse() or chosen.preprocessing
    calibration = load_data(data, preprocessing)
    held_out = None if validation is None else load_data(validation, calibration.preprocessing)
    chosen = chosen.with_preprocessing(calibration.preprocessing)
    make = partial(
        hs.quantize,
        hs.load_model(model, state_dict, strip_quantization),
        calibration,
        chosen,
        seed=seed,
        samples=samples or _num_samples(calibration, held_out),
        statistics=statistics,
        validation=held_out,
    )
    labelled = None if held_out is None or held_out.has_labels is False else held_out
    run(make, out, Wanted(labelled, latency, requantization is not None), resume=resume, force=force, json=json)
    if labelled is None:
        say(f"{NOT_EVALUATED} The labels in --data were not used." if calibration.has_labels else NOT_EVALUATED)


def _num_samples(calibration: Data, validation: Data | None) -> int:
    """How many inputs to calibrate on, so that some are left to judge the result on."""
    count = calibration.num_samples
    if count is None or validation is not None:
        return _MOST_SAMPLES
    return min(_MOST_SAMPLES, count - min(_MOST_HELD_OUT, count // 8))
