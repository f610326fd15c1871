"""The CIFAR-10 images and trained networks, found beside the project, and the calibration images that every tool gets.

python -m harness.data --network resnet20 --samples 512 --seed 0 --out calibration.npy
python -m harness.data --network resnet20 --validation --out validation.npz        for peers whose environment has no torch
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("resnet20", "resnet32", "resnet56", "resnet8_mlperf", "nin")
NEEDED = ("cifar10_networks.py", "train.npz", "validation.npz", "networks")


def data_folder() -> Path:
    """The folder with the CIFAR-10 files: ``$HALFSTEP_DATA/cifar10`` or ``../shared/data/cifar10``. Ends the program without it."""
    base = Path(os.environ.get("HALFSTEP_DATA", ROOT.parent / "shared" / "data"))
    folder = base / "cifar10"
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        sys.exit(
            f"The CIFAR-10 data is not at '{folder}': {', '.join(missing)} missing. "
            "Set HALFSTEP_DATA to the folder that holds 'cifar10/'; without it this benchmark has nothing to measure."
        )
    return folder


def networks_module() -> ModuleType:
    """The data folder's own module: network definitions, ``load_network``, ``load_split``, ``normalize``."""
    spec = importlib.util.spec_from_file_location("cifar10_networks", data_folder() / "cifar10_networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_calibration(network: str, samples: int, seed: int, out: Path) -> None:
    """Save a seeded choice of training images, ascending, as the float32 [samples,3,32,32] that ``network`` expects."""
    import numpy as np

    module = networks_module()
    images, _ = module.load_split("train")
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), samples, replace=False))
    np.save(out, module.normalize(images[chosen], network).numpy())


def write_validation(network: str, out: Path) -> None:
    """Save the validation images as the float32 [N,3,32,32] that ``network`` expects, and their labels [N]."""
    import numpy as np

    module = networks_module()
    images, labels = module.load_split("validation")
    np.savez(out, inputs=module.normalize(images, network).numpy(), labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--validation", action="store_true", help="the validation images and their labels, all of them")
    given = parser.parse_args()
    if given.validation:
        write_validation(given.network, given.out)
    else:
        write_calibration(given.network, given.samples, given.seed, given.out)


if __name__ == "__main__":
    main()
