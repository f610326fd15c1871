"""YAML of plain values: no types of Python's, no aliases, and neither larger nor deeper than a recipe is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES, MAX_DEPTH, MAX_DIGITS = 1 << 20, 50, 40


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases, which make a few lines stand for more than any memory holds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value of the document."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"{self.peek_event().start_mark}: aliases (*name) are not read, write the value out")  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _number(loader: _PlainLoader, node: yaml.ScalarNode) -> Any:
    """An integer or float of a length that a number has: those of base 60 grow with each colon."""
    if len(node.value) > MAX_DIGITS:
        raise yaml.YAMLError(f"{node.start_mark}: a number of more than {MAX_DIGITS} digits")
    return loader.construct_yaml_int(node) if node.tag.endswith("int") else loader.construct_yaml_float(node)


for _kind in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def read_yaml(path: Path) -> Any:
    """The plain values in the file; raises `yaml.YAMLError`, `UnicodeDecodeError` or `OSError`."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise yaml.YAMLError(f"it has more than {MAX_BYTES >> 20} MB")
    try:
        return yaml.load(content.decode("utf-8"), _PlainLoader)
    except (ValueError, RecursionError) as error:  # a number or date that is none
        raise yaml.YAMLError(str(error)) from error
