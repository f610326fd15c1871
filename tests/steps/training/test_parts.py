"""The parts of a training run by themselves: batches, loss, rates, batch norm, state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from halfstep.data import as_data
from halfstep.errors import TrainingError
from halfstep.steps.checkpoint import Checkpoint
from halfstep.steps.training.augmentation import Augmentation
from halfstep.steps.training.feed import Feed
from halfstep.steps.training.live_norm import LiveNorm
from halfstep.steps.training.loss import Loss
from halfstep.steps.training.optimizer import factor
from halfstep.steps.training.state import State


def numbers(num: int = 50) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Samples that hold their own index, labelled with it."""
    return [(torch.full((1, 4, 4), float(index)), torch.tensor(index)) for index in range(num)]


class Indexed(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return numbers()[index]


class Streamed(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(numbers())


def seen(feed: Feed, epoch: int, first: int = 0) -> list[list[int]]:
    return [batch.labels.tolist() for batch in feed.epoch(epoch, first, feed.num_batches())]  # type: ignore[union-attr]


def test_every_epoch_has_its_own_order_and_every_sample_once() -> None:
    feed = Feed(as_data(Indexed()), 10, seed=3)
    first, second = seen(feed, 0), seen(feed, 1)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(50))
    assert first != second
    assert first == seen(Feed(as_data(Indexed()), 10, seed=3), 0)
    assert first != seen(Feed(as_data(Indexed()), 10, seed=4), 0)


def test_an_epoch_can_be_entered_in_its_middle() -> None:
    feed = Feed(as_data(Indexed()), 10, seed=3, augmentation=Augmentation(flip=True, shift=2, warp=0.5))
    whole = list(feed.epoch(2, 0, 5))
    rest = list(feed.epoch(2, 3, 5))
    for late, same in zip(rest, whole[3:], strict=True):
        assert torch.equal(late.inputs[0], same.inputs[0]) and torch.equal(late.labels, same.labels)  # type: ignore[arg-type]


def test_with_views_the_same_images_come_again() -> None:
    feed = Feed(as_data(Indexed()), 10, seed=3, augmentation=Augmentation(shift=2, warp=0.5), views=2)
    epochs = [torch.cat([batch.inputs[0] for batch in feed.epoch(index, 0, 5)]) for index in range(4)]
    assert torch.equal(epochs[0], epochs[2]) and torch.equal(epochs[1], epochs[3]) and not torch.equal(epochs[0], epochs[1])


def test_what_can_only_be_passed_over_has_no_views() -> None:
    stream = as_data(torch.utils.data.DataLoader(Streamed(), batch_size=7))
    with pytest.raises(TrainingError, match="leave 'views' at 0"):
        Feed(stream, 10, seed=0, views=2).num_batches()


def test_a_stream_is_passed_over_in_its_own_order() -> None:
    stream = as_data(torch.utils.data.DataLoader(Streamed(), batch_size=7))
    assert not stream.is_indexed
    assert seen(Feed(stream, 10, seed=0), 5, first=3) == [list(range(30, 40)), list(range(40, 50))]


def test_too_few_samples_for_a_batch_are_refused() -> None:
    with pytest.raises(TrainingError, match="50 samples, fewer than a batch of 51"):
        Feed(as_data(Indexed()), 51, seed=0).num_batches()


def test_the_loss_by_hand() -> None:
    """Scores (0, 0) against (ln 3, 0): KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    own, taught = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(Loss(1.0)(own, taught, None)) == pytest.approx(divergence, rel=1e-6)
    labels = torch.tensor([1])
    assert float(Loss(0.0)(own, None, labels)) == pytest.approx(math.log(2), rel=1e-6)
    assert float(Loss(0.25)(own, taught, labels)) == pytest.approx(0.25 * divergence + 0.75 * math.log(2), rel=1e-6)
    assert float(Loss(1.0, 2.0)(2 * own, 2 * taught, None)) == pytest.approx(4 * divergence, rel=1e-6)


def test_labels_that_do_not_fit_the_scores_are_refused() -> None:
    with pytest.raises(TrainingError, match="3 labels for 2 rows"):
        Loss(0.0)(torch.zeros(2, 5), None, torch.zeros(3, dtype=torch.long))


def test_the_schedule_by_hand() -> None:
    assert [factor(step, 100, 0.1) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert factor(55, 100, 0.1) == pytest.approx(0.5)  # half-way of the cosine
    assert factor(0, 10, 0.0) == 1.0
    assert 0 < factor(99, 100, 0.1) < 1e-3


def test_a_live_norm_is_torchs_batch_norm(generator: torch.Generator) -> None:
    gain, shift = torch.rand(5, generator=generator) + 0.1, torch.randn(5, generator=generator)
    norm, torchs = LiveNorm(gain, shift), nn.BatchNorm2d(5)
    torchs.load_state_dict({"weight": gain, "bias": shift}, strict=False)
    for _ in range(3):
        x = torch.randn(4, 5, 6, 6, generator=generator)
        torch.testing.assert_close(norm(x), torchs(x), rtol=1e-5, atol=1e-6)
    factor_, shift_ = norm.eval().affine()
    expected = torchs.eval()(x)
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-6)
    folded = x.double() * factor_.view(1, -1, 1, 1) + shift_.view(1, -1, 1, 1)
    torch.testing.assert_close(folded.float(), expected, rtol=1e-5, atol=1e-6)


def test_estimates_taken_anew_are_the_mean_over_all_batches(generator: torch.Generator) -> None:
    norm = LiveNorm(torch.ones(3), torch.zeros(3))
    norm(torch.randn(8, 3, generator=generator) + 50)
    batches = [torch.randn(8, 3, generator=generator) for _ in range(5)]
    norm.forget()
    for x in batches:
        norm(x)
    torch.testing.assert_close(norm.mean, torch.stack([x.mean(0) for x in batches]).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.variance, torch.stack([x.var(0) for x in batches]).mean(0), rtol=1e-5, atol=1e-6)


def test_a_channel_that_does_not_vary_is_not_blown_up(generator: torch.Generator) -> None:
    norm = LiveNorm(torch.full((2,), 0.5), torch.tensor([0.25, 0.25]))
    x = torch.randn(64, 2, generator=generator)
    x[:, 1] = 3.0
    norm.forget()
    expected = norm(x)
    norm.restore()
    factor_, shift_ = norm.affine()
    assert float(factor_[1]) == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close((x.double() * factor_ + shift_).float(), expected, rtol=0.02, atol=0.02)  # of 64 samples, not of 63


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_saved_state_goes_on_to_the_same_bytes(kind: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    def made() -> State:
        torch.manual_seed(1)
        model = nn.Linear(4, 3)
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return State(model, [kind(model.parameters(), lr=0.1, **options)], [p.detach().clone() for p in model.parameters()])  # type: ignore[arg-type]

    def step(state: State, index: int) -> None:
        loss = F.mse_loss(state.model(torch.full((2, 4), float(index))), torch.ones(2, 3))
        state.optimizers[0].zero_grad()
        loss.backward()
        state.optimizers[0].step()
        torch._foreach_lerp_(state.average, [p.detach() for p in state.model.parameters()], 0.5)
        state.losses.append(float(loss.detach()))

    whole, checkpoint = made(), Checkpoint.start(tmp_path / "kept", {}, resume=False)
    for index in range(6):
        step(whole, index)
        if index == 2:
            whole.save(checkpoint, "4-finetune")
    continued = made()
    assert not made().load(checkpoint, "5-finetune")
    assert continued.load(checkpoint, "4-finetune")
    assert checkpoint.read_rest("4-finetune", "training") == {"num_steps": 3}
    for index in range(continued.num_steps, 6):
        step(continued, index)
    assert continued.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(continued.model.parameters(), whole.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(continued.average, whole.average, strict=True))
