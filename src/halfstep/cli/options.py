"""Options that several commands share, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from halfstep.data import Data, Preprocessing, load_data
from halfstep.errors import DataError
from halfstep.integer.requantization import MODES
from halfstep.targets import TARGETS

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The network: 'package.module:factory' or 'path/file.py:factory' (a callable that returns an nn.Module), "
        "a .pt2 file written by torch.export.save, or an .onnx file. The first two run their code, and PyTorch calls its reader of the "
        "third unsafe: name none that you do not trust (docs/trust.md).",
    ),
]
StateDict = Annotated[
    Path | None,
    typer.Option("--state-dict", metavar="FILE", help="Weights for the network that MODEL builds, as .safetensors.", show_default=False),
]
StripQuantization = Annotated[
    bool,
    typer.Option(
        "--strip-quantization", help="Read an .onnx file that is quantized already as the float network between its Q and DQ nodes."
    ),
]
Calibration = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Inputs to calibrate on: .npz (images, labels), .npy, a folder of images, "
        "'module:factory' that returns a Dataset or DataLoader, or 'digits:calibration'.",
        show_default=False,
    ),
]
LabelledData = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Labelled inputs: .npz (images, labels), a folder with one sub-folder a class, "
        "'module:factory' that returns a Dataset or DataLoader, or 'digits:test'.",
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="RUNTIME",
        help=f"Write what this runtime computes with integers, one of: {', '.join(TARGETS)}. Default: the recipe's (onnxruntime).",
        show_default=False,
    ),
]
AlsoLowered = Annotated[
    str | None,
    typer.Option(
        "--requantization",
        metavar="MODE",
        help=f"Lower to a program of integers alone, too, with this rescaling: {', '.join(MODES)}.",
        show_default=False,
    ),
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="How many inputs to calibrate on.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write what is printed to FILE as JSON, too.", show_default=False)
]
AllowChanged = Annotated[
    bool, typer.Option("--allow-changed", help="Read a run directory whose files are not as they were written; see docs/trust.md.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is already there.")]

_PANEL = "Preprocessing of 8-bit images"
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean", metavar="NUMBERS", help="Subtracted after scaling, one number a channel.", rich_help_panel=_PANEL, show_default=False
    ),
]
Std = Annotated[
    str | None,
    typer.Option("--std", metavar="NUMBERS", help="Divides after that, one number a channel.", rich_help_panel=_PANEL, show_default=False),
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale", metavar="NUMBER", help="Factor on the pixels 0..255. Default: 1/255.", rich_help_panel=_PANEL, show_default=False
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="PIXELS", min=1, help="Resize the shorter side to this first.", rich_help_panel=_PANEL, show_default=False
    ),
]
Crop = Annotated[
    int | None,
    typer.Option("--crop", metavar="PIXELS", min=1, help="Cut this square from the centre.", rich_help_panel=_PANEL, show_default=False),
]


@dataclass(frozen=True)
class PreprocessingOptions:
    """The preprocessing as written on the command line."""

    mean: str | None = None
    std: str | None = None
    scale: str | None = None
    size: int | None = None
    crop: int | None = None

    def parse(self) -> Preprocessing | None:
        """The preprocessing, or None where no option was given; `DataError` names an option that does not fit."""
        options = {
            "mean": numbers("--mean", self.mean),
            "std": numbers("--std", self.std),
            "scale": number("--scale", self.scale) if self.scale is not None else None,
            "size": self.size,
            "crop": self.crop,
        }
        given = {name: value for name, value in options.items() if value is not None}
        return Preprocessing.from_options(given) if given else None


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """``"0.485,0.456"`` as numbers; None stays None."""
    return None if text is None else tuple(number(option, part) for part in text.split(","))


def number(option: str, text: str) -> float:
    """``"0.485"`` or ``"1/255"`` as a number."""
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        way_out = "numbers with commas between them and no blanks, one a channel" if option in ("--mean", "--std") else "a number"
        raise DataError(f"{option} has '{text}' where a number should be. Give {way_out}: {EXAMPLES[option]}") from None


EXAMPLES = {"--mean": "--mean 0.485,0.456,0.406", "--std": "--std 0.229,0.224,0.225", "--scale": "--scale 1/255"}


def load_labelled(spec: str, preprocessing: Preprocessing | None, option: str) -> Data:
    """The data that ``spec`` names; `DataError` where it is known to have no labels."""
    data = load_data(spec, preprocessing)
    if data.has_labels is False:
        raise DataError(
            f"{option}: {data.name} has no labels, so no accuracy can be computed. Give an .npz file with an array 'labels', "
            "a folder with one sub-folder a class, or a factory that returns (inputs, labels)."
        )
    return data
