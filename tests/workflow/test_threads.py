"""Any number of threads gives the same bytes, but for what learns by gradients."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib import resources

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
from halfstep import parallel

LEARNING = ("adaround", "brecq", "binary", "faq", "lsq", "pact", "sat")
RECIPES = sorted(path.name.removesuffix(".yaml") for path in resources.files("halfstep.recipes").iterdir() if path.name.endswith(".yaml"))
USUAL = ("int8-balanced", "w4a8")


def convolution(channels: int, outputs: int, size: int, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, outputs, size, padding=size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]


class Inverted(nn.Module):
    """As in MobileNetV2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.body = nn.Sequential(
            *convolution(channels, wide, 1), nn.ReLU6(), *convolution(wide, wide, 3, wide), nn.ReLU6(), *convolution(wide, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def mobile() -> nn.Module:
    torch.manual_seed(0)
    first, last = [*convolution(3, 16, 3), nn.ReLU6()], [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10)]
    model = nn.Sequential(*first, Inverted(16), *convolution(16, 40, 1), nn.ReLU6(), *last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_var.uniform_(0.3, 1.5)
    return model.eval()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def quantized(recipe: str, num_threads: int) -> dict[str, Tensor]:
    torch.set_num_threads(num_threads)
    inputs = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    state = hs.quantize(mobile(), inputs, recipe).model.state_dict()
    assert torch.get_num_threads() == num_threads
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize(
    "recipe",
    [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if not name.startswith(LEARNING)],
)
def test_one_thread_and_two_give_the_same_bytes(recipe: str, threads: None) -> None:
    one, two = (quantized(recipe, number) for number in (1, 2))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_pieces_come_in_order_and_beside_one_another(threads: None) -> None:
    torch.set_num_threads(2)
    turns, seen, places = parallel.Turns(), [], set()
    meeting = threading.Barrier(2, timeout=20)

    def work(number: int) -> tuple[int, bool, int]:
        meeting.wait()  # two of them at once, or never
        time.sleep(0.02 * (number % 2))
        places.add(threading.get_ident())
        with turns.of(number):
            seen.append(number)
        return number, torch.is_grad_enabled(), torch.get_num_threads()

    with parallel.steady(), torch.no_grad():
        assert list(parallel.each(work, range(8))) == [(number, False, 1) for number in range(8)]
        with parallel.all_threads():
            assert torch.get_num_threads() == 2
    assert seen == list(range(8)) and len(places) == 2
    assert list(parallel.each(lambda number: threading.get_ident(), range(2))) == [threading.get_ident()] * 2  # not outside


def test_a_piece_that_fails_ends_the_others(threads: None) -> None:
    torch.set_num_threads(2)
    turns = parallel.Turns()

    def work(number: int) -> int:
        try:
            if number == 2:
                raise ValueError("broken")
            with turns.of(number):
                return number
        except BaseException:
            turns.pass_over(number)
            raise

    with parallel.steady(), pytest.raises(ValueError, match="broken"):
        list(parallel.each(work, range(6)))
