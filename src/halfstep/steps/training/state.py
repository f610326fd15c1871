"""Where a training run stands: everything that decides its further course, written to one file and read again.

Tensors: parameters and buffers, what the optimizer remembers of each parameter, their moving averages, the losses so far. Rest: the number
of steps done. Random numbers need no place: they are drawn anew for each step from the seed and its number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from halfstep.steps.checkpoint import Checkpoint

_NAME = "training"


@dataclass
class State:
    """num_steps: done so far. losses: of each of them. average: of every parameter, where averages are kept."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    average: list[Tensor]
    losses: list[float] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        """Done so far."""
        return len(self.losses)

    def save(self, checkpoint: Checkpoint, step: str) -> None:
        """Write it, in place of what was written before."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for place, entries in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{place}.{key}": value for key, value in entries.items() if isinstance(value, Tensor)}
        tensors |= {f"average.{index}": tensor for index, tensor in enumerate(self.average)}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        checkpoint.write(step, _NAME, tensors, {"num_steps": self.num_steps})

    def load(self, checkpoint: Checkpoint, step: str) -> bool:
        """Take what was saved, if anything was."""
        saved = checkpoint.read(step, _NAME)
        if saved is None:
            return False
        self.model.load_state_dict({name.partition(".")[2]: tensor for name, tensor in saved.items() if name.startswith("model.")})
        for number, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            prefix = f"optimizer.{number}."
            for name in sorted(name for name in saved if name.startswith(prefix)):
                place, _, key = name.removeprefix(prefix).partition(".")
                state.setdefault(int(place), {})[key] = saved[name]
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        for index, tensor in enumerate(self.average):
            tensor.copy_(saved[f"average.{index}"])
        self.losses = saved["losses"].tolist()
        return True
