from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fastgmtl import methods
from fastgmtl.cli import options
from fastgmtl.cli.errors import CliError
from fastgmtl.methods.shared import Config


def test_values_have_the_type_of_the_key() -> None:
    items = ["epochs=7", " lr = 1e-3 ", "residual=no", "conv=gin", "dropout=0"]
    config = options.parse(Config, items)
    assert config == Config(epochs=7, lr=1e-3, residual=False, conv="gin", dropout=0.0)
    assert type(config.dropout) is float  # type: ignore[attr-defined]


def test_later_items_win_and_items_win_over_the_base() -> None:
    config = options.parse(Config, ["hidden=8", "hidden=9"], {"hidden": 5, "layers": 4})
    assert config == Config(hidden=9, layers=4)


@pytest.mark.parametrize("text", ["true", "Yes", "on", "1"])
def test_true(text: str) -> None:
    assert options.parse(Config, [f"residual={text}"]) == Config(residual=True)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("epochs", "--set: key=value is required, got 'epochs'; keys: epochs (an integer,"),
        ("epoch=3", "--set: 'epoch' is not known; did you mean epochs? known: epochs, patience,"),
        ("Hiden=3", "--set: 'Hiden' is not known; did you mean hidden? known: "),
        ("epochs=3.5", "--set epochs: an integer is required, got '3.5'"),
        ("lr=fast", "--set lr: a number is required, got 'fast'"),
        ("residual=maybe", "--set residual: true or false is required, got 'maybe'"),
        ("conv=sag", "--set conv: 'sag' is not known; did you mean sage? known: gcn, sage, gin"),
        ("dropout=1", "--set: dropout: must be in [0, 1), got 1.0"),
        ("lr=nan", "--set: lr: must be positive, got nan"),
    ],
)
def test_refusals(item: str, message: str) -> None:
    with pytest.raises(CliError) as error:
        options.parse(Config, [item])
    assert str(error.value).startswith(message)
    assert error.value.code == 2


def test_stored_configuration_of_another_version() -> None:
    base: dict[str, Any] = {"hidden": 8, "momentum": 0.9}
    with pytest.raises(CliError, match=r"^the stored configuration has keys that this version lacks: momentum$"):
        options.parse(Config, [], base)


def test_description_lists_every_key() -> None:
    text = options.describe(Config)
    assert "conv (gcn or sage or gin, " in text
    assert "residual (true or false, True)" in text
    assert text.count("(") == len(vars(Config()))


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_key_of_a_method_is_described_and_read_back(method: str) -> None:
    config = methods.METHODS[method].config_type
    keys = [field.name for field in dataclasses.fields(config)]
    text = options.describe(config)
    assert all(f"{key} (" in text for key in keys)
    assert options.parse(config, [f"{key}={getattr(config(), key)}" for key in keys]) == config()
