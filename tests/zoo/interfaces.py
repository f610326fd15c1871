"""Several inputs, several outputs, one size of batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.members import member


@member((6,), (5,))
class two_inputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(F.relu(self.left(x) + self.right(y)))


@member((3, 6, 6))
class dict_output(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.conv(x))
        return {"scores": self.fc(x.mean((2, 3))), "features": x}


@member((10,))
class tuple_output(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(10, 8), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.body(x))
        return self.head(x), self.other(x)


@member((3, 6, 6), batch_size=2)
class static_batch(nn.Module):
    """Records the batch size it is shown as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).reshape(int(x.shape[0]), 6, 16).mean(2))
