"""`as_data`: every Python form of inputs gives the same samples, once each, and what does not fit is refused with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset, default_collate

from halfstep.data import Batch, Data, Preprocessing, as_data
from halfstep.errors import DataError


def numbered(count: int, first: int = 0) -> torch.Tensor:
    """Inputs [count, 2] that say which sample they are."""
    return torch.arange(first, first + count, dtype=torch.float32).unsqueeze(1).expand(-1, 2).contiguous()


def seen(data: Data, **options: Any) -> list[int]:
    return [int(value) for batch in data.batches(**options) for value in batch.inputs[0][:, 0]]


class Squares(Dataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return numbered(1, index)[0], index


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return ((numbered(1, index)[0], index) for index in range(10))


def test_data_is_returned_as_it_is_and_takes_a_preprocessing() -> None:
    data = as_data(np.zeros((2, 4, 4, 1), np.uint8))
    assert as_data(data) is data
    other = as_data(data, Preprocessing(scale=1.0))
    assert other.preprocessing == Preprocessing(scale=1.0)
    assert data.preprocessing is None


FORMS = {
    "tensor": lambda: numbered(10),
    "float64 array": lambda: numbered(10).double().numpy(),
    "big-endian array": lambda: numbered(10).numpy().astype(">f4"),
    "tuple": lambda: (numbered(10), torch.arange(10)),
    "batch": lambda: Batch((numbered(10),), torch.arange(10)),
    "dataset": lambda: Squares(10),
    "iterable dataset": Stream,
    "tensor dataset": lambda: TensorDataset(numbered(10)),
    "loader": lambda: DataLoader(Squares(10), batch_size=3),
    "shuffled loader": lambda: DataLoader(Squares(10), batch_size=3, shuffle=True, drop_last=True),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=4),
    "list of tensors": lambda: list(numbered(10).split(3)),
    "list of pairs": lambda: [(part, torch.zeros(len(part), dtype=torch.long)) for part in numbered(10).split(3)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_every_form_gives_each_sample_once_in_order_twice_over(form: str, batch_size: int) -> None:
    data = as_data(FORMS[form]())
    assert seen(data, batch_size=batch_size) == list(range(10))
    assert seen(data, batch_size=batch_size) == list(range(10))
    sizes = [len(batch.inputs[0]) for batch in data.batches(batch_size)]
    assert set(sizes[:-1]) <= {batch_size}
    assert all(batch.inputs[0].dtype == torch.float32 for batch in data.batches())


@settings(deadline=None)
@given(count=st.integers(1, 70), batch_size=st.integers(1, 80), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_batching_never_loses_or_repeats_a_sample(count: int, batch_size: int, sizes: list[int]) -> None:
    assert seen(as_data(numbered(count)), batch_size=batch_size) == list(range(count))
    total = sum(sizes)
    parts = list(numbered(total).split(sizes))
    assert seen(as_data(parts), batch_size=batch_size) == list(range(total))


@settings(deadline=None)
@given(count=st.integers(1, 60), samples=st.integers(1, 80), batch_size=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_a_subset_is_ascending_without_repeats_and_the_same_for_the_same_seed(count: int, samples: int, batch_size: int, seed: int) -> None:
    data = as_data(numbered(count))
    chosen = seen(data, batch_size=batch_size, samples=samples, seed=seed)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, samples)
    assert chosen == seen(data, batch_size=7, samples=samples, seed=seed)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9), samples=st.integers(1, 90), batch_size=st.integers(1, 20))
def test_of_a_stream_the_first_samples_are_taken(sizes: list[int], samples: int, batch_size: int) -> None:
    data = as_data(list(numbered(sum(sizes)).split(sizes)))
    assert seen(data, batch_size=batch_size, samples=samples) == list(range(min(samples, sum(sizes))))


def test_a_subset_depends_on_the_seed_and_not_on_the_kind_of_source() -> None:
    first = seen(as_data(numbered(500)), samples=20, seed=1)
    assert first != seen(as_data(numbered(500)), samples=20, seed=2)
    assert first == seen(as_data(DataLoader(Squares(500), batch_size=3, shuffle=True)), samples=20, seed=1)


def test_reading_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    seen(as_data(Squares(10)), samples=5)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loader_with_a_sampler_of_its_own_keeps_it() -> None:
    data = as_data(DataLoader(Squares(10), batch_size=2, sampler=SubsetRandomSampler([1, 4, 7])))
    assert data.num_samples is None
    assert sorted(seen(data)) == [1, 4, 7]


def test_a_loader_keeps_its_collation() -> None:
    def doubled(samples: list[Any]) -> Any:
        inputs, labels = default_collate(samples)
        return inputs * 2, labels

    assert seen(as_data(DataLoader(Squares(3), batch_size=1, collate_fn=doubled))) == [0, 2, 4]


def test_labels_follow_their_samples() -> None:
    data = as_data((numbered(40), torch.arange(40, dtype=torch.uint8).unsqueeze(1)))
    assert data.has_labels is True
    for batch in data.batches(7, samples=20, seed=3):
        assert batch.labels is not None and batch.labels.dtype == torch.int64
        assert torch.equal(batch.labels, batch.inputs[0][:, 0].long())


def test_several_inputs_stay_together() -> None:
    data = as_data(((numbered(9), torch.arange(9)), None))
    assert data.has_labels is False
    for batch in data.batches(4):
        assert torch.equal(batch.inputs[0][:, 0].long(), batch.inputs[1])
        assert batch.inputs[1].dtype == torch.int64


def test_batches_of_different_shapes_are_not_joined() -> None:
    shapes = [tuple(batch.inputs[0].shape) for batch in as_data([torch.ones(2, 3), torch.ones(2, 5), torch.ones(1, 5)]).batches(64)]
    assert shapes == [(2, 3), (3, 5)]


@pytest.mark.parametrize("form", ["tensor", "list of tensors", "tensor dataset"])
def test_what_is_done_to_a_batch_does_not_reach_the_users_tensor(form: str) -> None:
    original = numbered(6)
    value = {"tensor": original, "list of tensors": [original], "tensor dataset": TensorDataset(original)}[form]
    for batch in as_data(value).batches(4):
        batch.inputs[0].zero_()
    assert torch.equal(original, numbered(6))


def test_8_bit_images_in_either_layout_give_the_same_inputs() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    last = next(as_data(images).batches()).inputs[0]
    first = next(as_data(torch.from_numpy(images).permute(0, 3, 1, 2)).batches()).inputs[0]
    assert last.shape == (5, 3, 6, 7)
    assert last.is_contiguous()
    assert torch.equal(first, last)
    assert torch.equal((last * 255).round().to(torch.uint8).permute(0, 2, 3, 1), torch.from_numpy(images))
    assert next(as_data(images[..., 0]).batches()).inputs[0].shape == (5, 1, 6, 7)


def generator() -> Iterator[torch.Tensor]:
    yield numbered(3)


def failing() -> Any:
    class Failing(Squares):
        def __getitem__(self, index: int) -> Any:
            raise KeyError("no such row")

    return Failing(4)


NAN = numbered(10).clone()
NAN[7, 1] = float("nan")
INFINITE = numbered(10).clone()
INFINITE[3, 0] = -float("inf")

REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "No data was given"),
    "no samples": (torch.zeros(0, 3), "has no samples"),
    "no samples in a dataset": (TensorDataset(torch.zeros(0, 3)), "has no samples"),
    "no batches": ([], "has no samples"),
    "empty batches": ([torch.zeros(0, 3)], "has no samples"),
    "a generator": (generator(), "only once"),
    "a string": ("some.npz", r"load_data\(path\)"),
    "a number": (3, "A int is no data"),
    "a scalar": (torch.tensor(1.0), "Add the batch axis"),
    "complex": (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
    "int64 images": (torch.zeros(2, 3, 4, 4, dtype=torch.int64), "images of type int64"),
    "uint16 images": (np.zeros((2, 3, 4, 4), np.uint16), "type uint16"),
    "objects": (np.array([None, 1]), "type object"),
    "8-bit vectors": (torch.zeros(2, 3, dtype=torch.uint8), "are no images"),
    "8-bit images with 7 channels": (torch.zeros(2, 7, 4, 7, dtype=torch.uint8), "1, 3 or 4 channels"),
    "NaN": (NAN, r"\[10, 2\] holds NaN values in sample 7"),
    "infinite": (INFINITE, "infinite values in sample 3"),
    "NaN in a stream": (list(NAN.split(4)), "NaN values in sample 7"),
    "NaN in a loader": (DataLoader(TensorDataset(NAN), batch_size=4), "NaN values in sample 7"),
    "NaN in a second input": (((numbered(10), NAN), None), "input 1 of sample 7"),
    "labels too few": ((numbered(3), torch.zeros(2, dtype=torch.long)), "2 labels for 3 samples"),
    "labels too few in a stream": ([(numbered(3), torch.zeros(2, dtype=torch.long))], "2 labels for 3 samples"),
    "labels too many in a stream": ([(numbered(3), torch.zeros(5, dtype=torch.long))], "5 labels for 3 samples"),
    "float labels": ((numbered(3), torch.zeros(3)), "class indices"),
    "inputs of different lengths": (((numbered(3), numbered(4)), None), "number of samples: 3, 4"),
    "three parts": ((numbered(3), numbered(3), numbered(3)), r"Give \(inputs, labels\)"),
    "three parts in a stream": ([(numbered(3), numbered(3), numbered(3))], "3 parts"),
    "dictionaries": ([{"pixels": numbered(3)}], "gives a dict where a tensor"),
    "a dataset that raises": (failing(), "raised KeyError: 'no such row'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_way_out(case: str) -> None:
    value, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        list(as_data(value).batches(3))
    assert str(caught.value).endswith((".", "?"))


def test_the_sample_named_for_a_nan_is_that_of_the_whole_data() -> None:
    values = numbered(100).clone()
    values[60:] = float("nan")
    data = as_data(values)
    first_bad = min(index for index in seen(as_data(numbered(100)), samples=10, seed=5) if index >= 60)
    with pytest.raises(DataError, match=f"sample {first_bad}\\."):
        list(data.batches(3, samples=10, seed=5))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"samples": 0}, {"samples": -1}])
def test_counts_below_one_are_refused_at_once(options: dict[str, int]) -> None:
    with pytest.raises(DataError, match="Give at least 1"):
        as_data(numbered(3)).batches(**options)


def test_a_preprocessing_for_float_values_is_refused() -> None:
    with pytest.raises(DataError, match=r"float32 values.*mean \(0.5,\)"):
        list(as_data(torch.zeros(2, 1, 4, 4), Preprocessing(mean=(0.5,))).batches())
    assert len(list(as_data(torch.zeros(2, 1, 4, 4), Preprocessing()).batches())) == 1
