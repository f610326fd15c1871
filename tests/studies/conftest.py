"""The digits network and a smaller one, with their images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import halfstep as hs
from halfstep.studies import Subject, load_subject


@pytest.fixture(scope="session")
def digits() -> Subject:
    return load_subject("digits")


@pytest.fixture(scope="session")
def small() -> Subject:
    """Two layers, random images: quick to capture."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    images, labels = torch.rand(70, 1, 8, 8), torch.arange(40) % 3
    return Subject("small", network, hs.as_data(images), hs.as_data((torch.rand(40, 1, 8, 8), labels)))
