"""Networks by name, and images of another data set."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import halfstep as hs
from halfstep.errors import DataError
from halfstep.studies import load_subject
from halfstep.studies.subject import DEFAULT, default_names, other_images, read_idx

OWN = hs.as_data(torch.zeros(2, 12, 10, 3, dtype=torch.uint8), hs.Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))


def idx(images: np.ndarray) -> bytes:
    return b"\0\0\x08\x03" + struct.pack(">3I", *images.shape) + images.tobytes()


def test_digits_take_the_form_of_the_networks_own_images() -> None:
    """Grey in all channels, resized, and preprocessed alike: a black pixel becomes (0 - 0.5) / 0.25."""
    data = other_images("digits", OWN)
    assert data.num_samples == 1797
    x = next(iter(data.batches(4))).inputs[0]
    assert x.shape == (4, 3, 12, 10)
    assert torch.equal(x[:, 0], x[:, 1]) and torch.equal(x[:, 0], x[:, 2])
    assert float(x.min()) == -2.0


def test_images_of_a_file(tmp_path: Path) -> None:
    """Colours are averaged where the network takes grey images."""
    images = np.zeros((3, 6, 6, 3), dtype=np.uint8)
    images[..., 0], images[..., 1] = 30, 60
    np.savez(tmp_path / "other.npz", images=images)
    own = hs.as_data(torch.zeros(2, 6, 6, dtype=torch.uint8))
    x = next(iter(other_images(str(tmp_path / "other.npz"), own).batches(3))).inputs[0]
    assert x.shape == (3, 1, 6, 6)
    assert torch.allclose(x, torch.tensor(30 / 255))


@pytest.mark.parametrize("is_compressed", [False, True])
def test_idx(tmp_path: Path, is_compressed: bool) -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * is_compressed)
    path.write_bytes(gzip.compress(idx(images)) if is_compressed else idx(images))
    assert np.array_equal(read_idx(path), images)
    assert other_images(str(path), OWN).num_samples == 2


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01" + bytes(40), idx(np.zeros((2, 3, 4), np.uint8))[:-1]])
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not an IDX file of images"):
        read_idx(path)


def test_inputs_that_are_no_images_cannot_be_replaced() -> None:
    with pytest.raises(DataError, match="no images"):
        other_images("digits", hs.as_data(torch.zeros(4, 7)))


def test_an_unknown_network_names_the_closest() -> None:
    with pytest.raises(DataError, match="Did you mean 'resnet32'"):
        load_subject("resnet31")


def test_without_the_shared_folder_the_digits_remain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HALFSTEP_DATA", str(tmp_path))
    assert default_names() == ("digits",)
    with pytest.raises(DataError, match="HALFSTEP_DATA"):
        load_subject("resnet20")


def test_a_shared_network_with_its_own_preprocessing(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels are fed as 0..255; the digits stand beside it as another data set."""
    monkeypatch.setenv("HALFSTEP_DATA", str(data_folder))
    assert default_names() == DEFAULT
    subject = load_subject("resnet8_mlperf")
    assert subject.calibration.num_samples == 40_000 and subject.validation.num_samples == 5000
    x = next(iter(subject.calibration.batches(16))).inputs[0]
    assert torch.allclose(x, x.round(), atol=1e-3) and 200 < float(x.max()) < 255.01
    assert subject.other is not None and next(iter(subject.other.batches(1))).inputs[0].shape == (1, 3, 32, 32)
