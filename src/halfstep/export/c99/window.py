"""The windows of a layer over a feature map that lies channels last: which places of the input an output place reads, in C.

One to three axes are written as three; sizes of 1 disappear when the C is compiled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from halfstep.export.c99.text import indented

_AXES = ("d", "h", "w")


@dataclass(frozen=True)
class Window:
    """Sizes of the input and output behind the channels, and how windows lie: one entry for each of three axes.

    before: padding at the lower end. insertion: places between which an input lies (the stride of a transposed convolution, else 1).
    """

    sizes: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    dilation: tuple[int, ...]
    insertion: tuple[int, ...] = (1, 1, 1)

    @classmethod
    def of(
        cls, sizes: tuple[int, ...], outputs: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], before: tuple[int, ...],
        dilation: tuple[int, ...], insertion: tuple[int, ...] = (),
    ) -> Window:  # fmt: skip
        """From entries for one to three axes."""
        missing = 3 - len(sizes)
        ones, zeros = (1,) * missing, (0,) * missing
        insertion = insertion or (1,) * len(sizes)
        return cls(ones + sizes, ones + outputs, ones + kernel, ones + stride, zeros + before, ones + dilation, ones + insertion)

    @property
    def num_places(self) -> int:
        """Of the output."""
        return math.prod(self.outputs)

    @property
    def num_taps(self) -> int:
        """Entries of a window."""
        return math.prod(self.kernel)

    def starts(self) -> str:
        """Where the window at ``place`` begins: ``d``, ``h``, ``w``, which may lie outside the input."""
        lines, below = [], 1
        for axis in (2, 1, 0):
            size, letter = self.outputs[axis], _AXES[axis]
            at = "place" if below == 1 else f"place / {below}"
            at = "0" if size == 1 else at if below * size == self.num_places else f"{at} % {size}"
            lines.append(f"const ptrdiff_t {letter} = (ptrdiff_t)({at}) * {self.stride[axis]} - {self.before[axis]};")
            below *= size
        return "\n".join(reversed(lines))

    def taps(self, inside: str, outside: str) -> str:
        """Loops over all entries of the window at ``d``, ``h``, ``w``.

        inside: statements for an entry whose place in the input, ``from`` (in places), exists; outside: for one that lies beyond the border
        or, in a transposed convolution, between two inputs.
        """
        loops = [
            f"for (ptrdiff_t k{letter} = 0; k{letter} < {size}; ++k{letter}) {{" for letter, size in zip(_AXES, self.kernel, strict=True)
        ]
        conditions = []
        for letter, size, insertion in zip(_AXES, self.sizes, self.insertion, strict=True):
            conditions += [f"at_{letter} >= 0", f"at_{letter} < {(size - 1) * insertion + 1}"]
        conditions += self._hits()
        body = [
            *self._positions(),
            f"if ({' && '.join(conditions)}) {{",
            indented([self._place(), inside]),
            "} else {",
            indented([outside]),
            "}",
        ]
        return "\n".join([*loops, indented(body), "}}}"])

    def taps_inside(self, inside: str) -> str:
        """Loops over the entries whose place in the input exists.

        No condition on each of them: gcc 12 turns those into masked loads and, for AVX-512, gives all vectors the mask of the first.
        """
        loops = []
        for letter, size, kernel, step, insertion in zip(_AXES, self.sizes, self.kernel, self.dilation, self.insertion, strict=True):
            first = f"{letter} < 0 ? ({step - 1} - {letter}) / {step} : 0"
            end = f"k{letter} < {kernel} && {letter} + k{letter} * {step} < {(size - 1) * insertion + 1}"
            loops.append(f"for (ptrdiff_t k{letter} = {first}; {end}; ++k{letter}) {{")
        body = [*self._positions(), *[f"if (!({hit}))\n    continue;" for hit in self._hits()], self._place(), inside]
        return "\n".join([*loops, indented(body), "}}}"])

    def _positions(self) -> list[str]:
        """Where an entry of the window lies in the input, gaps counted."""
        return [f"const ptrdiff_t at_{letter} = {letter} + k{letter} * {step};" for letter, step in zip(_AXES, self.dilation, strict=True)]

    def _hits(self) -> list[str]:
        """Conditions under which that is no gap."""
        return [f"at_{letter} % {n} == 0" for letter, n in zip(_AXES, self.insertion, strict=True) if n > 1]

    def _place(self) -> str:
        at = [f"(size_t)at_{letter}" + (f" / {n}" if n > 1 else "") for letter, n in zip(_AXES, self.insertion, strict=True)]
        return f"const size_t from = ({at[0]} * {self.sizes[1]} + {at[1]}) * {self.sizes[2]} + {at[2]};"

    def is_dense(self) -> bool:
        """Whether the entries of a window along the innermost axis lie side by side."""
        return self.dilation[2] == 1 and self.insertion == (1, 1, 1)
