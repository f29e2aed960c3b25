"""``--set key=value``: text to a method's Config, typed by its annotations."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastgmtl.cli.errors import CliError, unknown
from fastgmtl.methods import TrainConfig

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def describe(config: type[TrainConfig]) -> str:
    """Every key with its type and default, for help texts."""
    kinds = typing.get_type_hints(config)
    return ", ".join(f"{f.name} ({_name(kinds[f.name])}, {f.default})" for f in dataclasses.fields(config))


def parse(config: type[TrainConfig], items: Sequence[str], base: Mapping[str, Any] | None = None) -> TrainConfig:
    """The Config of the defaults, changed by ``base`` (values) and then by ``items`` (``key=value``)."""
    kinds = typing.get_type_hints(config)
    keys = [field.name for field in dataclasses.fields(config)]
    values = dict(base or {})
    strange = sorted(set(values) - set(keys))
    if strange:
        raise CliError(f"the stored configuration has keys that this version lacks: {', '.join(strange)}")
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals:
            raise CliError(f"--set: key=value is required, got {item!r}; keys: {describe(config)}")
        if key not in keys:
            raise unknown("--set", key, keys)
        values[key] = _value(key, kinds[key], text.strip())
    try:
        return config(**values)
    except (TypeError, ValueError) as error:
        raise CliError(f"--set: {error}") from None


def _value(key: str, kind: Any, text: str) -> Any:
    choices = _choices(kind)
    if choices:
        if text not in choices:
            raise unknown(f"--set {key}", text, choices)
        return text
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise CliError(f"--set {key}: true or false is required, got {text!r}")
        return text.lower() in TRUE
    try:
        return kind(text)
    except ValueError:
        raise CliError(f"--set {key}: {_name(kind)} is required, got {text!r}") from None


def _choices(kind: Any) -> tuple[str, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _name(kind: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(_choices(kind)) or names[kind]
