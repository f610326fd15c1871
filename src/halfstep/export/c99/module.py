"""The text of ``model.c`` while it grows: arrays and functions, each written once however many layers use it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfstep.export.c99.text import array


@dataclass
class Module:
    """prefix: what every name begins with. arrays, functions: finished texts, in order. num_array_bytes: of all arrays together."""

    prefix: str
    arrays: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    num_array_bytes: int = 0
    _names: dict[str, str] = field(default_factory=dict)
    _num_named: dict[str, int] = field(default_factory=dict)

    def constant(self, kind: str, c_type: str, numbers: NDArray[np.integer], more: str = "") -> str:
        """The name of a constant array; equal ones are stored once. more: C text, by how many zeros it is longer."""
        key = f"{c_type}{more}:{numbers.dtype.str}:{hashlib.sha256(numbers.tobytes()).hexdigest()}"
        if key not in self._names:
            self._names[key] = self._fresh(kind)
            self.arrays.append(array(f"static const {c_type} {self._names[key]}[{numbers.size}{more}]", numbers))
            self.num_array_bytes += numbers.size * _BYTES[c_type]
        return self._names[key]

    def function(self, kind: str, text: str) -> str:
        """The name of a function with this text, in which ``@`` stands for the name; equal ones are written once."""
        if text not in self._names:
            self._names[text] = self._fresh(kind)
            self.functions.append(text.replace("@", self._names[text]))
        return self._names[text]

    def _fresh(self, kind: str) -> str:
        number = self._num_named[kind] = self._num_named.get(kind, 0) + 1
        return f"{self.prefix}_{kind}_{number}"


_BYTES = {f"{sign}int{bits}_t": bits // 8 for sign in ("", "u") for bits in (8, 16, 32)}
