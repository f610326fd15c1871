"""Trains MobileNetV1 on CIFAR-10 from scratch on the CPU, and writes its weights.

python examples/train_cifar10.py --width 0.25 --epochs 10            # networks/mobilenet_v1_0.25.safetensors
python examples/train_cifar10.py --width 1.0 --resume                # goes on after an interruption

The 40,000 images of train.npz are mirrored and moved; validation.npz is looked at after every epoch, and nothing is chosen by it. Both lie
in the folder cifar10 of HALFSTEP_DATA or ../shared/data. At width 1.0 an epoch takes 2.7 minutes of one core, at width 0.25 half a minute.
`halfstep reproduce sat-table --out DIR` takes weights from DIR/networks, and from examples/networks, where width 0.25 is (`--width 0.25
--epochs 10 --learning-rate 0.1`: 73.90 % on validation.npz). With the defaults, 12 epochs, width 1.0 has 86.60 % and width 0.75 84.92 %;
their 13 and 7 MB are not kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from halfstep.studies.float_training import WIDTHS, FloatPlan, train_to
from halfstep.studies.subject import mobilenet_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, choices=tuple(WIDTHS.values()), default=1.0, help="multiplier of all numbers of channels")
    parser.add_argument("--out", type=Path, default=Path("networks"), help="folder for the weights (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=FloatPlan().epochs)
    parser.add_argument("--learning-rate", type=float, default=FloatPlan().learning_rate, help="the largest of the schedule")
    parser.add_argument("--smoothing", type=float, default=FloatPlan().smoothing, help="of the labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on where the same command was interrupted")
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = FloatPlan(given.epochs, learning_rate=given.learning_rate, smoothing=given.smoothing, seed=given.seed)
    name = next(name for name, width in WIDTHS.items() if width == given.width)
    given.out.mkdir(parents=True, exist_ok=True)
    data, validation = mobilenet_data(name)
    train_to(given.out / f"{name}.safetensors", given.width, plan, data, validation, given.resume, _tell)


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
