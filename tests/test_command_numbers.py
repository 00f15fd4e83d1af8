"""Numbers that are read from what a program printed."""

import pytest

from tunewright.envs.command_metrics import read_json_path, read_number
from tunewright.errors import TargetError


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,234", 1234), ("12,345,678.5", 12345678.5), ("-1,234e2", -123400), ("0.10", 0.1), ("100", 100), ("1e3", 1000)],
)
def test_numbers_in_a_text(text, number):
    assert read_number("m", text) == number


@pytest.mark.parametrize("text", ["0,10", "0,523", "1,5", "12,34,567", "1,2345", "1234,567", "1.234,56", "000,523"])
def test_a_decimal_comma_is_refused(text):
    with pytest.raises(TargetError, match=f"{text}.*decimal point"):
        read_number("m", text)


def test_json_that_python_cannot_hold_is_told_in_words():
    with pytest.raises(TargetError, match="nested too deeply"):
        read_json_path("m", "a", "[" * 100_000)
    with pytest.raises(TargetError, match="too many digits"):
        read_json_path("m", "a", '{"a": ' + "9" * 5000 + "}")
    with pytest.raises(TargetError, match="number of 400 digits"):
        read_json_path("m", "a", '{"a": ' + "9" * 400 + "}")


@pytest.mark.parametrize("path", ["results.0.mem", "$.results[0].mem", "results[0].mem"])
def test_json_paths(path):
    assert read_json_path("m", path, 'noise\n{"results": [{"mem": 4}]}\n') == 4


def test_json_path_without_json():
    with pytest.raises(TargetError, match="not JSON"):
        read_json_path("m", "a", "nothing")
