"""What the preprocessing options mean."""

from __future__ import annotations

import pytest

from halfstep.cli.options import PreprocessingOptions
from halfstep.errors import DataError


def test_no_option_is_no_preprocessing() -> None:
    assert PreprocessingOptions().parse() is None


def test_numbers_and_fractions() -> None:
    parsed = PreprocessingOptions(mean="0.485,0.456,0.406", std="1/4, 0.5,1", scale="1/255", size=256, crop=224).parse()
    assert parsed is not None
    assert parsed.mean == (0.485, 0.456, 0.406)
    assert parsed.std == (0.25, 0.5, 1.0)
    assert parsed.scale == 1 / 255
    assert (parsed.size, parsed.crop) == (256, 224)


@pytest.mark.parametrize("text", ["", "a", "0.1,,0.2", "0.1;0.2", "nan", "inf", "1/0", "0.1,"])
def test_what_is_no_number_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DataError, match=r"--mean has .* Give numbers .*: --mean 0\.485,0\.456,0\.406"):
        PreprocessingOptions(mean=text).parse()


def test_values_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match="mean has 3 values and std 1"):
        PreprocessingOptions(mean="0,0,0", std="1").parse()
