"""The tables of the terminal."""

from __future__ import annotations

import pytest
from report_example import EMPTY, full, layer, with_layers
from rich.text import Text

from halfstep.report.table import layers, summary, to_text


def row(text: str, name: str) -> list[str]:
    """The cells of the line that starts with ``name``."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return line.strip().removeprefix(name).split("  ")


def cells(text: str, name: str) -> list[str]:
    return [cell.strip() for cell in row(text, name) if cell.strip()]


def test_summary_has_the_three_rows() -> None:
    text = to_text(summary(full()[0]))
    assert cells(text, "float") == ["92.60 %", "–", "1.00 MB", "–", "1.00×"]
    assert cells(text, "simulated") == ["92.58 %", "0.02", "250 kB", "4.00×", "–"]
    assert cells(text, "ONNX Runtime") == ["92.55 %", "0.05", "300 kB", "3.33×", "2.10×"]


def test_absent_values_are_dashes() -> None:
    text = to_text(summary(EMPTY))
    for name in ("float", "simulated", "ONNX Runtime"):
        assert cells(text, name) == ["–"] * 5


def test_layers_show_grids_noise_and_size() -> None:
    text = to_text(layers(with_layers(EMPTY, layer("conv1"), layer("add1", "add", None))))
    assert cells(text, "conv1") == ["conv2d", "int8/channel", "30.0", "uint8", "25.0", "147 k", "9.28 kB", "2.38 kB"]
    assert cells(text, "add1") == ["add", "–", "–", "uint8", "–", "–", "–", "–"]


def test_brackets_in_a_name_are_no_markup() -> None:
    text = to_text(layers(with_layers(EMPTY, layer("blocks[0].[red]conv[/red]"))))
    assert "blocks[0].[red]conv[/red]" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_keeps_to_its_width_without_losing_the_name(width: int) -> None:
    name = "features.denseblock4.denselayer16.conv2"
    text = to_text(layers(with_layers(EMPTY, layer(name))), width=width)
    assert max(map(len, text.splitlines())) <= width
    if width == 120:
        assert name in text


def test_text_is_plain_even_where_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    text = to_text(Text("a warm [welcome]", style="bold red"))
    assert text == "a warm [welcome]\n"
