"""Lets ``torchvision`` be imported beside a torch build that its binary does not load with.

Its binary then registers no operators, and its Python files end at the first fake kernel for one of them. Declaring the two names is
enough; nothing here ever calls them. Import this before anything that imports ``torchvision``. Where the binary loads, nothing is done.
"""

import contextlib

import torch

_DECLARED = ("nms", "qnms")
_library: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Declare ``torchvision::nms`` and ``qnms`` if ``import torchvision`` fails without them."""
    with contextlib.suppress(ImportError):
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            _forget_failed_import()
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in _DECLARED:
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _library.append(library)


def _forget_failed_import() -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
