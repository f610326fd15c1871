"""`load_data`: files, folders, import paths, the digits; and one clear sentence for whatever cannot be read."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from halfstep.data import Preprocessing, as_data, load_data
from halfstep.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 6, 3), np.uint8)
LABELS = np.arange(12) % 3


def same(first: torch.Tensor, images: np.ndarray) -> bool:
    return torch.equal(first, torch.from_numpy(images).permute(0, 3, 1, 2).float() * (1 / 255))


def save_images(folder: Path, images: np.ndarray, start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images, start):
        Image.fromarray(image).save(folder / f"{index:03}.png")


def test_npz_with_and_without_labels(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=IMAGES, labels=LABELS, other=np.array([None]))
    data = load_data(str(tmp_path / "a.npz"))
    assert (data.num_samples, data.has_labels, data.name) == (12, True, str(tmp_path / "a.npz"))
    (inputs,), labels = next(data.batches())
    assert same(inputs, IMAGES)
    assert labels is not None and labels.tolist() == LABELS.tolist()
    np.savez(tmp_path / "b.npz", images=IMAGES.astype(np.float32))
    assert load_data(str(tmp_path / "b.npz")).has_labels is False


def test_npy_is_read_a_batch_at_a_time(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2000, 64, 64, 1), np.uint8))
    next(load_data(str(tmp_path / "a.npy")).batches(2))  # imports and caches of the first use
    tracemalloc.start()
    for _ in load_data(str(tmp_path / "a.npy")).batches(10):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 64 * 64 / 10  # NumPy reports its memory there: less than a tenth of the file at any time


def test_folder_of_classes(tmp_path: Path) -> None:
    for name, chosen in (("zebra", IMAGES[8:]), ("ant", IMAGES[:5]), ("bee", IMAGES[5:8])):
        save_images(tmp_path / name, chosen)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    data = load_data(str(tmp_path))
    assert (data.num_samples, data.has_labels) == (12, True)
    batches = list(data.batches(5))
    assert same(torch.cat([batch.inputs[0] for batch in batches]), IMAGES)
    assert torch.cat([batch.labels for batch in batches if batch.labels is not None]).tolist() == [0] * 5 + [1] * 3 + [2] * 4


def test_folder_without_classes(tmp_path: Path) -> None:
    save_images(tmp_path, IMAGES)
    data = load_data(str(tmp_path))
    assert data.has_labels is False
    (inputs,), labels = next(data.batches())
    assert labels is None
    assert same(inputs, IMAGES)


def test_a_folder_and_an_array_choose_the_same_subset(tmp_path: Path) -> None:
    save_images(tmp_path, IMAGES)
    (from_folder,), _ = next(load_data(str(tmp_path)).batches(samples=4, seed=9))
    (from_array,), _ = next(as_data(IMAGES).batches(samples=4, seed=9))
    assert torch.equal(from_folder, from_array)


def test_images_of_all_modes_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "1", "P", "RGBA", "LA"):
        Image.fromarray(IMAGES[0]).convert(mode).save(tmp_path / f"{mode}.png")
    Image.fromarray(IMAGES[0]).convert("CMYK").save(tmp_path / "CMYK.jpg")
    Image.fromarray(IMAGES[0][..., 0]).convert("P").save(tmp_path / "Q.png", transparency=bytes(range(255, -1, -1)))
    assert next(load_data(str(tmp_path)).batches()).inputs[0].shape == (7, 3, 5, 6)


def test_images_of_different_sizes_need_a_size_and_a_crop(tmp_path: Path) -> None:
    save_images(tmp_path, IMAGES[:3])
    save_images(tmp_path, RNG.integers(0, 256, (2, 9, 7, 3), np.uint8), start=3)
    with pytest.raises(DataError, match=r"000.png is 5 x 6 and 003.png 9 x 7 pixels. Give a size and a crop"):
        list(load_data(str(tmp_path)).batches(2))
    with pytest.raises(DataError, match=r"differ in size.* Give a crop \(--crop\)"):
        list(load_data(str(tmp_path), Preprocessing(size=6)).batches())
    for preprocessing in (Preprocessing(size=6, crop=6), Preprocessing(crop=4)):
        side = preprocessing.crop
        assert next(load_data(str(tmp_path), preprocessing).batches()).inputs[0].shape == (5, 3, side, side)


def test_the_crop_of_a_folder_is_taken_once(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (2, 12, 16, 3), np.uint8)
    save_images(tmp_path, images)
    preprocessing = Preprocessing(scale=1.0, size=10, crop=6)
    (from_folder,), _ = next(load_data(str(tmp_path), preprocessing).batches())
    (from_array,), _ = next(as_data(images, preprocessing).batches())
    assert (from_folder - from_array).abs().max() <= 1  # derived in test_preprocessing.py


FACTORIES = """
import torch
from torch.utils.data import DataLoader, TensorDataset

values = torch.arange(6.0).reshape(3, 2)

def tensor(): return values
def loader(): return DataLoader(TensorDataset(values), batch_size=2)
def images(): return torch.full((2, 4, 4, 1), 100, dtype=torch.uint8)
def nothing(): return None
def generated(): return iter([values])
def failing(): raise RuntimeError("the disk is elsewhere")
def needs(path): return values
ready = loader()
"""


def test_factories(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FACTORIES)
    for name in ("tensor", "loader", "ready"):
        data = load_data(f"{file}:{name}")
        assert data.name == f"{file}:{name}"
        assert torch.cat([batch.inputs[0] for batch in data.batches(2)]).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert float(next(load_data(f"{file}:images", Preprocessing(scale=0.01)).batches()).inputs[0].max()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "gave a NoneType that cannot be used: No data was given"),
        ("generated", "only once"),
        ("failing", r"raised RuntimeError: the disk is elsewhere \(mine.py, line 12\)"),
        ("needs", "without arguments raised TypeError"),
        ("tenser", "Did you mean 'tensor'"),
    ],
)
def test_factories_that_cannot_be_used(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(FACTORIES)
    with pytest.raises(DataError, match=message):
        load_data(f"{tmp_path / 'mine.py'}:{name}")


def test_digits() -> None:
    data = load_data("digits:calibration")
    assert data.num_samples == 256
    (inputs,), labels = next(data.batches(256))
    assert inputs.shape == (256, 1, 8, 8)
    assert labels is not None and labels.shape == (256,)
    assert (float(inputs.min()), float(inputs.max())) == (0, 1)
    with pytest.raises(DataError, match="Did you mean 'calibration'"):
        load_data("digits:calib")


def write_bad(folder: Path, kind: str) -> Path:
    """A file that must be refused."""
    arrays = {
        "labels_short.npz": {"images": IMAGES, "labels": LABELS[:5]},
        "labels_float.npz": {"images": IMAGES, "labels": LABELS / 2},
        "no_images.npz": {"pixels": IMAGES},
        "empty.npz": {"images": IMAGES[:0]},
        "int32.npz": {"images": IMAGES.astype(np.int32)},
        "rank2.npz": {"images": IMAGES[0, 0]},
        "rank1.npz": {"images": np.zeros(4)},
        "objects.npz": {"images": np.array([None, 3], dtype=object)},
    }
    path = folder / kind
    if kind in arrays:
        np.savez(path, **arrays[kind])
    elif kind == "cut.npz":
        np.savez_compressed(path, images=IMAGES)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "damaged.npz":
        np.savez_compressed(path, images=IMAGES)
        stored = bytearray(path.read_bytes())
        stored[150:170] = b"\xff" * 20
        path.write_bytes(stored)
    elif kind == "cut.npy":
        np.save(path, IMAGES)
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "objects.npy":
        np.save(path, np.array([None, 3], dtype=object))
    elif kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(IMAGES))
    elif kind == "archive.npy":
        np.savez(folder / "archive.npz", images=IMAGES)
        (folder / "archive.npz").rename(path)
    elif kind == "array.npz":
        np.save(folder / "array.npy", IMAGES)
        (folder / "array.npy").rename(path)
    else:
        path.write_bytes(b"" if kind.startswith("nothing") else b"hello")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("labels_short.npz", "5 labels for 12 samples"),
        ("labels_float.npz", "class indices"),
        ("no_images.npz", "no array 'images'. It holds: pixels"),
        ("empty.npz", "no samples"),
        ("int32.npz", "type int32"),
        ("rank2.npz", r"shape \[6, 3\]"),
        ("rank1.npz", r"shape \[4\]"),
        ("objects.npz", "pickled Python objects"),
        ("objects.npy", "pickled Python objects"),
        ("pickle.npz", "a pickle, which is never loaded. Write it with numpy.savez"),
        ("pickle.npy", "a pickle, which is never loaded. Write it with numpy.save"),
        ("cut.npz", "damaged or cut short"),
        ("damaged.npz", "damaged or cut short"),
        ("cut.npy", "damaged or cut short"),
        ("nothing.npz", "damaged or cut short"),
        ("nothing.npy", "damaged or cut short"),
        ("archive.npy", "Rename it to .npz"),
        ("array.npz", "Rename it to .npy"),
        ("text.npy", "is no .npy file"),
        ("text.txt", "is no data that can be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, kind: str, message: str) -> None:
    path = write_bad(tmp_path, kind)
    with pytest.raises(DataError, match=message) as caught:
        load_data(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "calibration.npy", IMAGES)
    with pytest.raises(DataError, match=r"Did you mean 'calibration.npy'"):
        load_data(str(tmp_path / "calibratoin.npy"))
    with pytest.raises(DataError, match="no file or folder"):
        load_data(str(tmp_path / "pictures"))
    with pytest.raises(DataError, match=r"Its folder .* does not exist"):
        load_data(str(tmp_path / "nowhere" / "a.npz"))
    with pytest.raises(DataError, match="No data was given"):
        load_data("")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        load_data(str(tmp_path))
    save_images(tmp_path / "ant", IMAGES[:2])
    (tmp_path / "bee").mkdir()
    with pytest.raises(DataError, match=r"class folder .*bee has no images"):
        load_data(str(tmp_path))
    save_images(tmp_path, IMAGES[:1])
    with pytest.raises(DataError, match=r"both images \(000.png\) and folders \(ant\)"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(("kind", "message"), [("text", "not an image"), ("cut", "cannot be decoded"), ("deep", "more than 8 bits")])
def test_images_that_cannot_be_read(tmp_path: Path, kind: str, message: str) -> None:
    save_images(tmp_path, IMAGES[:2])
    bad = tmp_path / "zzz.png"
    if kind == "text":
        bad.write_text("hello")
    elif kind == "cut":
        Image.fromarray(RNG.integers(0, 256, (60, 60, 3), np.uint8)).save(bad)
        bad.write_bytes(bad.read_bytes()[:2000])
    else:
        Image.fromarray(np.full((5, 6), 40000, np.uint16)).save(bad)
    with pytest.raises(DataError, match=rf"zzz.png .*{message}|{message}.*zzz.png"):
        list(load_data(str(tmp_path)).batches())


def test_an_image_that_is_cut_short_is_named_without_a_warning(tmp_path: Path) -> None:
    whole = tmp_path / "whole.tiff"
    Image.new("RGB", (64, 64), (10, 20, 30)).save(whole)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "short.tiff").write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"short\.tiff .*(decoded|read)"):
        next(iter(load_data(str(folder)).batches(1)))
