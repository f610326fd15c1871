"""The images and trained networks, found beside the project, and the calibration images that every tool gets.

python -m harness.data --network resnet20 --samples 512 --seed 0 --out calibration.npy
python -m harness.data --network resnet20 --validation --out validation.npz        for peers whose environment has no torch
"""

import argparse
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("resnet20", "resnet32", "resnet56", "resnet8_mlperf", "nin")
IMAGENET_NETWORKS = ("mobilenet_v2", "mobilenet_v2_keras", "squeezenet1_1")
ALL_NETWORKS = NETWORKS + IMAGENET_NETWORKS


@dataclass(frozen=True)
class Dataset:
    """A folder of the data. calibration: the split that calibration images come from. batch_size: images that a simulation takes at once.

    The folder's own module has the network definitions, ``load_network``, ``load_split`` and ``normalize``.
    """

    name: str
    calibration: str
    batch_size: int

    @property
    def module_name(self) -> str:
        return f"{self.name}_networks"

    @property
    def needed(self) -> tuple[str, ...]:
        """What the folder must hold."""
        return (f"{self.module_name}.py", f"{self.calibration}.npz", "validation.npz", "networks")


CIFAR10, IMAGENET = Dataset("cifar10", "train", 250), Dataset("imagenet", "calibration", 25)


def dataset_of(network: str) -> Dataset:
    """The images that ``network`` was trained for."""
    return IMAGENET if network in IMAGENET_NETWORKS else CIFAR10


def data_folder(dataset: Dataset = CIFAR10) -> Path:
    """The dataset's folder in ``$HALFSTEP_DATA`` or ``../shared/data``. Ends the program without it."""
    base = Path(os.environ.get("HALFSTEP_DATA", ROOT.parent / "shared" / "data"))
    folder = base / dataset.name
    missing = [name for name in dataset.needed if not (folder / name).exists()]
    if missing:
        sys.exit(
            f"The data is not at '{folder}': {', '.join(missing)} missing. "
            f"Set HALFSTEP_DATA to the folder that holds '{dataset.name}/'; without it this benchmark has nothing to measure."
        )
    return folder


def networks_module(dataset: Dataset = CIFAR10) -> ModuleType:
    """The data folder's own module: network definitions, ``load_network``, ``load_split``, ``normalize``."""
    spec = importlib.util.spec_from_file_location(dataset.module_name, data_folder(dataset) / f"{dataset.module_name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_calibration(network: str, samples: int, seed: int, out: Path) -> None:
    """Save a seeded choice of calibration images (all, where there are no more) as the float32 [samples,3,H,W] that ``network`` expects."""
    import numpy as np

    dataset = dataset_of(network)
    module = networks_module(dataset)
    images, _ = module.load_split(dataset.calibration)
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), min(samples, len(images)), replace=False))
    np.save(out, module.normalize(images[chosen], network).numpy())


def write_validation(network: str, out: Path) -> None:
    """Save the validation images as the float32 [N,3,H,W] that ``network`` expects, and their labels [N]."""
    import numpy as np

    module = networks_module(dataset_of(network))
    images, labels = module.load_split("validation")
    np.savez(out, inputs=module.normalize(images, network).numpy(), labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=ALL_NETWORKS, required=True)
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
