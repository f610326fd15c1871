"""What every batch must satisfy, each with the sentence for a batch that does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from halfstep.errors import DataError

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


def check_inputs(inputs: tuple[torch.Tensor, ...], where: str) -> None:
    """All inputs have a batch axis of one length, and a type a network can take."""
    if not inputs:
        raise DataError(f"A batch of {where} holds no inputs. Give (inputs, labels) or inputs alone.")
    for tensor in inputs:
        check_type(tensor, where)
    lengths = [len(tensor) for tensor in inputs]
    if len(set(lengths)) > 1:
        raise lengths_differ(lengths, where)


def lengths_differ(lengths: Sequence[int], where: str) -> DataError:
    """The error for several inputs with different numbers of samples."""
    return DataError(f"The inputs of {where} differ in their number of samples: {', '.join(map(str, lengths))}. Give as many of each.")


def check_type(tensor: torch.Tensor, where: str) -> None:
    """Float of rank 1 or more, uint8 images, or integers that are no images (token indices, masks)."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.ndim < 1:
        raise DataError(f"{where} holds a single number where inputs [N, ...] are expected. Add the batch axis.")
    if tensor.dtype in INTEGERS and tensor.dtype != torch.bool and tensor.ndim >= 4:
        raise DataError(f"{where} holds images of type {dtype}. Give them as uint8 (0..255), or as float32 as the network expects them.")
    if not (tensor.is_floating_point() or tensor.dtype == torch.uint8 or tensor.dtype in INTEGERS):
        raise DataError(f"{where} holds values of type {dtype}. Give uint8 images or float32 values.")


def check_finite(tensor: torch.Tensor, where: str, indices: Sequence[int], position: int | None) -> None:
    """No NaN and no infinity.

    ``indices`` are those of the samples in the whole data, ``position`` that of the input where there are several.
    """
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return
    is_bad = ~torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)
    first = int(is_bad.nonzero()[0])
    kind = "NaN" if bool(tensor[first].isnan().any()) else "infinite"
    which = f"sample {indices[first]}" if position is None else f"input {position} of sample {indices[first]}"
    raise DataError(f"{where} holds {kind} values in {which}. Remove that sample, or mend what produced it.")


def check_labels(labels: torch.Tensor | None, num_samples: int, where: str) -> torch.Tensor | None:
    """Labels as int64 [N] (or [N, ...] for dense targets); a trailing axis of one is dropped."""
    if labels is None:
        return None
    if labels.dtype not in (*INTEGERS, torch.uint8):
        dtype = str(labels.dtype).removeprefix("torch.")
        raise DataError(f"The labels of {where} are of type {dtype}. Give class indices as integers, or leave the labels out.")
    if labels.ndim < 1 or len(labels) != num_samples:
        count = len(labels) if labels.ndim else "no"
        raise DataError(f"{where} has {count} labels for {num_samples} samples. Give one label a sample, or leave the labels out.")
    return (labels.squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels).long()
