"""A run's record on disk: ``result.json`` and ``report.html``, each written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from halfstep.files import atomic_path
from halfstep.report.html import render
from halfstep.report.record import LayerFigures, RunRecord


def write_json(record: RunRecord, path: str | os.PathLike[str]) -> None:
    """Write ``record`` as JSON, fields in the order they are declared; NaN and infinite values become null.

    Raises:
        HalfstepError: the file cannot be written.
    """
    text = json.dumps(_finite(record.to_json()), indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("ascii"))


def write_html(record: RunRecord, figures: Mapping[str, LayerFigures], path: str | os.PathLike[str]) -> None:
    """Write the report page of ``record`` (UTF-8, self-contained).

    Raises:
        HalfstepError: the file cannot be written.
    """
    # File names on disk may hold bytes that are no UTF-8; Python carries them as lone surrogates, which UTF-8 cannot encode.
    page = render(record, figures).encode("utf-8", errors="xmlcharrefreplace")
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)


def _finite(value: Any) -> Any:
    """The same nested value with every NaN or infinite float turned to None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
