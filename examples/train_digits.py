"""Trains the network of ``halfstep demo`` from scratch on the CPU, in about a minute, and writes its weights.

python examples/train_digits.py                      # prints the test accuracy, writes digits.safetensors here
python examples/train_digits.py --out some/file.safetensors

The 1,041 training images are shifted by up to one pixel and scaled in contrast; AdamW, one-cycle schedule, label smoothing. The weights
written are an exponential moving average of those of the second half. Nothing is chosen by looking at the test images.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from halfstep.data import as_data
from halfstep.demo.digits import PREPROCESSING, load_split
from halfstep.demo.network import DigitsNet


def tensors(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All images [N, 1, 8, 8] and labels [N] of one part, preprocessed as the pipeline does it."""
    batch = next(as_data(load_split(split), PREPROCESSING).batches(batch_size=2000))
    assert batch.labels is not None
    return batch.inputs[0], batch.labels


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image shifted by -1, 0 or 1 pixel both ways (zeros come in) and its contrast scaled by 0.85 to 1."""
    count = len(images)
    padded = F.pad(images, (1, 1, 1, 1))
    shift = torch.randint(0, 3, (count, 2), generator=generator)
    rows = shift[:, :1] + torch.arange(8)
    columns = shift[:, 1:] + torch.arange(8)
    moved = padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)
    return moved * (0.85 + 0.15 * torch.rand(count, 1, 1, 1, generator=generator))


def train(epochs: int, seed: int, batch_size: int = 64) -> nn.Module:
    """The trained network in evaluation mode; the same seed and thread count give the same weights."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = tensors("train")
    network = DigitsNet()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.02)
    batches_per_epoch = len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * batches_per_epoch)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: batches_per_epoch * batch_size].split(batch_size):
            loss = F.cross_entropy(network(augment(images[chosen], generator)), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if epoch >= epochs // 2:
                average.update_parameters(network)
    return average.module.eval()


def accuracy(network: nn.Module, split: str) -> float:
    """Top-1 in percent."""
    images, labels = tensors(split)
    with torch.no_grad():
        is_right = network(images).argmax(1) == labels
    return 100 * float(is_right.double().mean())


def write(network: nn.Module, path: Path) -> int:
    """Writes the weights so that ``path`` is either the old file or the whole new one; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        partial.write_bytes(safetensors.torch.save(state))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the digits network from scratch.")
    parser.add_argument("--out", type=Path, default=Path("digits.safetensors"), help="file for the weights (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    network = train(options.epochs, options.seed)
    parts = ", ".join(f"{split} {accuracy(network, split):.2f} %" for split in ("train", "calibration", "test"))
    size = write(network, options.out)
    print(f"top-1: {parts}; {size:,} bytes in {options.out}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
