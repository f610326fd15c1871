"""``halfstep finetune``: a network trained with quantization in the loop, from a float network or from an earlier run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.options import PreprocessingOptions, load_labelled
from halfstep.cli.quantize import NOT_EVALUATED
from halfstep.cli.run import Wanted, run
from halfstep.cli.terminal import say
from halfstep.data import load_data

EXAMPLE = (
    "Example: halfstep finetune halfstep.demo.network:digits_network --data digits:calibration --validation digits:test "
    "--recipe lsq-w4a4 --epochs 20 --batch-size 32 --out digits-lsq"
)
_PANEL = "Training (default: as the recipe says)"


def finetune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|DIR",
            help="The float network, in any of the forms 'halfstep quantize' takes, or the folder of an earlier run, which is trained from "
            "where it stands.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="What to train on, in any of the forms 'halfstep quantize' takes. Labels are optional.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the run goes: a new or empty folder.", show_default=False)],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="A recipe with a step 'finetune'; see 'halfstep list recipes'.")
    ] = "lsq-w4a4",
    epochs: Annotated[float | None, typer.Option("--epochs", help="How often to pass over the data.", rich_help_panel=_PANEL)] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Samples of a step, over all processes.", rich_help_panel=_PANEL)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Of the weights.", rich_help_panel=_PANEL)] = None,
    distillation: Annotated[
        float | None,
        typer.Option(
            "--distillation", help="Share of the float network's (or the teacher's) answers in the loss, 0 to 1.", rich_help_panel=_PANEL
        ),
    ] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror images at random.", rich_help_panel=_PANEL)] = None,
    shift: Annotated[
        int | None, typer.Option("--shift", min=0, help="Move images by up to so many pixels.", rich_help_panel=_PANEL)
    ] = None,
    warp: Annotated[
        float | None, typer.Option("--warp", help="Turn, scale and shear this share of the images, 0 to 1.", rich_help_panel=_PANEL)
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the layers while training: no, bf16, fp16.", rich_help_panel=_PANEL)
    ] = None,
    requantization: options.AlsoLowered = None,
    samples: options.Samples = 512,
    seed: options.Seed = 0,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="DATA", help="Labelled inputs to evaluate on after every epoch.", show_default=False),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where the same command was interrupted or failed, to the same bytes. The learning rate may be another."
        ),
    ] = False,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            help="A trained network for the same inputs and classes, usually a larger one, whose answers are learned in place of the float "
            "network's. Given several times: the mean of their scores.",
            show_default=False,
        ),
    ] = None,
    state_dict: options.StateDict = None,
    allow_changed: options.AllowChanged = False,
    force: options.Force = False,
    json: options.Json = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    size: options.Size = None,
    crop: options.Crop = None,
) -> None:
    """Train a network with quantization in the loop, export it to ONNX, check the export against the simulation, and write a report.

    The network is quantized first, by the steps of the recipe that come before 'finetune', and trained from there. The state is kept every
    ten minutes (option checkpoint_minutes of the step) and at the end of the training; a run that was interrupted or failed goes on with
    --resume. Several processes share every batch:
    torchrun --nproc-per-node 2 -m halfstep.cli finetune ...
    """
    chosen = hs.Recipe.load(recipe)
    start = hs.load(model, allow_changed) if Path(model).is_dir() else hs.load_model(model, state_dict)
    stored = start.recipe.preprocessing if isinstance(start, hs.Result) else chosen.preprocessing
    inputs = load_data(data, PreprocessingOptions(mean, std, scale, size, crop).parse() or stored)
    held_out = None if validation is None else load_labelled(validation, inputs.preprocessing, "--validation")
    chosen = chosen.with_preprocessing(inputs.preprocessing)
    if requantization is not None:
        chosen = chosen.with_requantization(requantization)
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "distillation": distillation,
        "flip": flip,
        "shift": shift,
        "warp": warp,
        "precision": precision,
    }
    own = {name: value for name, value in given.items() if value is not None}
    taught_by = [hs.load_model(network) for network in teacher] if teacher else None
    make = partial(hs.finetune, start, inputs, chosen, validation=held_out, teacher=taught_by, options=own, seed=seed, samples=samples)
    run(make, out, Wanted(held_out, is_lowered=requantization is not None), resume=resume, force=force, json=json)
    if held_out is None:
        say(NOT_EVALUATED)
