"""Loops over the codes of a tensor, with every size and stride a constant.

Axes that lie one behind the other for all operands are run through as one, so that a tensor of one layout is a single loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Nest:
    """sizes: of the loops, outermost first. strides: for every operand, one a loop."""

    sizes: tuple[int, ...]
    strides: Mapping[str, tuple[int, ...]]

    @classmethod
    def over(cls, sizes: Sequence[int], strides: Mapping[str, Sequence[int]]) -> Nest:
        """Loops of ``sizes``; those of one turn are left out, those that continue each other joined."""
        kept: list[tuple[int, dict[str, int]]] = []
        for axis, size in enumerate(sizes):
            steps = {name: own[axis] for name, own in strides.items()}
            if size == 1:
                continue
            if kept and all(kept[-1][1][name] == step * size for name, step in steps.items()):
                kept[-1] = (kept[-1][0] * size, steps)
            else:
                kept.append((size, steps))
        return cls(tuple(size for size, _ in kept), {name: tuple(steps[name] for _, steps in kept) for name in strides})

    def without_innermost(self) -> Nest:
        """The loops around the innermost."""
        return Nest(self.sizes[:-1], {name: steps[:-1] for name, steps in self.strides.items()})

    def index(self, name: str, offset: int = 0) -> str:
        """The expression of an operand's place: a sum over the loops."""
        steps = zip("ijklmnopq", self.strides[name], strict=False)
        terms = [f"{letter} * {step}" if step != 1 else letter for letter, step in steps if step > 0]
        terms = [*terms, str(offset)] if offset or not terms else terms
        steps = zip("ijklmnopq", self.strides[name], strict=False)
        return " + ".join(terms) + "".join(f" - {letter} * {-step}" for letter, step in steps if step < 0)

    def loops(self, body: str, depth: int = 1) -> str:
        """The nested loops around ``body``, which may hold several lines."""
        lines = []
        for letter, size in zip("ijklmnopq", self.sizes, strict=False):
            lines.append(f"{'    ' * depth}for (size_t {letter} = 0; {letter} < {size}; ++{letter}) {{")
            depth += 1
        lines += [f"{'    ' * depth}{line}" for line in body.split("\n")]
        for _ in self.sizes:
            depth -= 1
            lines.append(f"{'    ' * depth}}}")
        return "\n".join(lines)
