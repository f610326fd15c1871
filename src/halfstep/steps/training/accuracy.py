"""How many labels of some data a network in training gets right."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from halfstep.data import Data
from halfstep.errors import DataError
from halfstep.graph.capture import in_eval_mode
from halfstep.graph.run import run
from halfstep.steps.training.loss import scores

_BATCH_SIZE = 128


def top1(network: GraphModule, data: Data, device: torch.device) -> float:
    """In percent; `DataError` where ``data`` has no labels."""
    num_right = num_seen = 0
    with in_eval_mode(network):
        for batch in data.batches(_BATCH_SIZE):
            if batch.labels is None:
                raise DataError(f"{data.name} has no labels, and accuracy cannot be measured without them.")
            found = scores(run(network, tuple(x.to(device) for x in batch.inputs))).argmax(1)
            num_right += int((found.cpu() == batch.labels.flatten()).sum())
            num_seen += batch.labels.numel()
    return 100 * num_right / num_seen
