"""What a study is made on: a trained network, images to calibrate on, labelled images to judge by, and images of another data set."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from halfstep.data import Data, Preprocessing, as_data, load_data
from halfstep.demo import digits
from halfstep.errors import DataError, HalfstepError, did_you_mean
from halfstep.imports import import_object
from halfstep.steps.abstract import Tell
from halfstep.studies.float_training import PREPROCESSING, WIDTHS, FloatPlan, load, train_to
from halfstep.workflow.load_model import load_model

DIGITS = "digits"
SHARED = ("resnet20", "resnet32", "resnet56", "resnet8_mlperf", "nin")
DEFAULT = ("resnet20", "resnet8_mlperf")
NETWORKS = "networks"  # the folder of trained float networks below the one that outcomes are written to
_LOADER = "cifar10_networks.py"
_PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Subject:
    """calibration: images whose labels, where there are any, are not used. other: those of another data set; None where there are none."""

    name: str
    model: nn.Module | ExportedProgram
    calibration: Data
    validation: Data
    other: Data | None = None


def default_names() -> tuple[str, ...]:
    """The networks a study is made on where none is named: two of the shared data folder, else the digits network."""
    return DIGITS_ONLY if data_folder() is None else DEFAULT


DIGITS_ONLY = (DIGITS,)


def load_subject(
    name: str, other: str | None = None, out: Path | None = None, resume: bool = False, tell: Tell = lambda line: None
) -> Subject:
    """A network by its name: one of `SHARED`, a MobileNetV1 of `WIDTHS`, or the digits network that is part of halfstep.

    other: see `other_images`. out: below it, in `NETWORKS`, a MobileNetV1 that the project does not hold is looked for, and trained where
    it is missing, which takes minutes to an hour; ``resume`` goes on with a training that was interrupted, ``tell`` gets its news.
    """
    if name == DIGITS:
        calibration = load_data("digits:calibration")
        model = load_model("halfstep.demo.network:digits_network")
        return with_other(Subject(name, model, calibration, load_data("digits:test")), other)
    if name in WIDTHS:
        train, validation = mobilenet_data(name)
        mobilenet = _mobilenet(name, out or Path(), train, validation, resume, tell)
        return with_other(Subject(name, mobilenet, train, validation), other or DIGITS)
    if name not in SHARED:
        raise DataError(
            f"There is no network '{name}'. {did_you_mean(name, (DIGITS, *SHARED, *WIDTHS))} For one of your own, give --model."
        )
    loader = str(_needed_folder(name) / _LOADER)
    mean, std = import_object(f"{loader}:NORMALIZATION", DataError)[name]
    train, validation = _images(name, Preprocessing(mean=mean, std=std))
    return with_other(Subject(name, load_model(f"{loader}:{name}"), train, validation), other or DIGITS)


def mobilenet_data(name: str) -> tuple[Data, Data]:
    """The training and the validation images as MobileNetV1 takes them."""
    return _images(name, PREPROCESSING)


def _images(name: str, preprocessing: Preprocessing) -> tuple[Data, Data]:
    train, validation = (load_data(str(_needed_folder(name) / f"{part}.npz"), preprocessing) for part in ("train", "validation"))
    return train, validation


def _needed_folder(name: str) -> Path:
    folder = data_folder()
    if folder is None:
        raise DataError(f"The network '{name}' needs CIFAR-10. Set HALFSTEP_DATA to the folder that holds cifar10/, or give --model.")
    return folder


def _mobilenet(name: str, out: Path, train: Data, validation: Data, resume: bool, tell: Tell) -> nn.Module:
    """From ``out``, from the project, or trained."""
    own = out / NETWORKS / f"{name}.safetensors"
    found = next((path for path in (own, _PROJECT / "examples" / NETWORKS / own.name) if path.is_file()), None)
    if found is not None:
        return load(WIDTHS[name], found)
    own.parent.mkdir(parents=True, exist_ok=True)
    plan = FloatPlan()
    tell(f"'{own}' is not there: {name} is trained for {plan.epochs:g} epochs first.")
    return train_to(own, WIDTHS[name], plan, train, validation, resume, tell)


def data_folder() -> Path | None:
    """The shared ``cifar10`` folder: below HALFSTEP_DATA, else below ../shared/data or shared/data; None where there is none."""
    named = os.environ.get("HALFSTEP_DATA")
    places = [Path(named)] if named else [base / "data" for base in (Path("../shared"), Path("shared"), _PROJECT.parent / "shared")]
    return next((place / "cifar10" for place in places if (place / "cifar10" / _LOADER).is_file()), None)


def with_other(subject: Subject, spec: str | None) -> Subject:
    """The same network with images of another data set beside its own."""
    if spec is None:
        return subject
    return Subject(subject.name, subject.model, subject.calibration, subject.validation, other_images(spec, subject.calibration))


def other_images(spec: str, own: Data) -> Data:
    """Images of another data set in the form of ``own``: as many channels, resized to its size, preprocessed alike.

    spec: ``digits`` (scikit-learn's 1,797 scanned digits), an IDX file of images (Fashion-MNIST's ``train-images-idx3-ubyte.gz``), or
    anything of 8-bit images that `load_data` takes. Raises `DataError` where ``own`` is not of images.
    """
    first = next(iter(own.batches(1))).inputs
    if len(first) != 1 or first[0].ndim != 4:
        raise DataError(f"The inputs of {own.name} are no images: they cannot be replaced by those of another data set. Leave --other out.")
    num_channels, *size = first[0].shape[1:]
    images = _read_images(spec)
    if images.shape[1] != num_channels:
        images = images.float().mean(1, keepdim=True).expand(-1, num_channels, -1, -1)
    resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
    data = as_data(resized.permute(0, 2, 3, 1).contiguous(), _without_resizing(own.preprocessing))
    data.source.name = spec
    return data


def _without_resizing(preprocessing: Preprocessing | None) -> Preprocessing | None:
    return None if preprocessing is None else preprocessing.model_copy(update={"size": None, "crop": None})


def _read_images(spec: str) -> torch.Tensor:
    """uint8 [N, C, H, W] or [N, 1, H, W]."""
    if spec == DIGITS:
        parts = [digits.load_split(part)[0] for part in digits.BOUNDS]
        return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2)
    path = Path(spec)
    if path.name.removesuffix(".gz").endswith("ubyte"):
        return torch.from_numpy(read_idx(path))[:, None]
    raw: list[Any] = [batch.inputs[0] for batch in load_data(spec, Preprocessing(scale=1.0)).batches(256)]
    images = torch.cat(raw)
    if images.ndim != 4:
        raise DataError(f"{spec} holds no 8-bit images. Give .npz or .npy with uint8 [N, H, W] or [N, H, W, C], or an IDX file.")
    return images.round().to(torch.uint8)


def read_idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [N, H, W] of an IDX file, compressed by gzip or not: two zero bytes, type 8, three axes, their sizes, the pixels."""
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sizes = np.frombuffer(content[4:16], ">u4").astype(int)
        if content[:4] != b"\0\0\x08\x03":
            raise ValueError("its head is not that of images")
        images: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(content[16:], np.uint8).reshape(sizes).copy()
        return images
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is not an IDX file of images: {error}.") from error


def own_subject(
    model: str, state_dict: Path | None, calibration: Data, validation: Data, other: str | None = None, name: str | None = None
) -> Subject:
    """A user's own network; `HalfstepError` where its data has no labels to judge by."""
    if validation.has_labels is False:
        raise HalfstepError(f"{validation.name} has no labels, so no accuracy can be computed.")
    plain = model.rpartition(":")[2].removesuffix(".pt2").rpartition("/")[2]
    return with_other(Subject(name or plain, load_model(model, state_dict), calibration, validation), other)
