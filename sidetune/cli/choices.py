"""`--set method.rank=4 --set recipe.lr=5e-3`: any field of a method, a recipe or the run, checked against its type."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from sidetune.errors import unknown

if TYPE_CHECKING:
    from sidetune.backbones import Backbone

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Choices of a run that are neither the method's nor the recipe's."""

    image_size: int | tuple[int, int] | None = None
    transform: str = "photo"
    architecture: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tune: bool = False
    """With data in VTAB-1k's form: train on 800 images and validate on 200, rather than train on all."""


def opened(backbone: str, setup: Setup) -> Backbone:
    """The backbone of a name or file, as a setup wants it."""
    from sidetune.backbones import open_backbone

    return open_backbone(
        backbone, image_size=setup.image_size, architecture=setup.architecture, mean=setup.mean, std=setup.std
    )


@dataclass(frozen=True)
class Choices:
    method: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, str] = field(default_factory=dict)
    setup: dict[str, str] = field(default_factory=dict)


def parse(settings: Sequence[str]) -> Choices:
    """Sort `name=value` words by what they belong to. Raises ValueError for another form."""
    choices = Choices()
    for setting in settings:
        name, equals, value = setting.partition("=")
        group, dot, inner = name.partition(".")
        if not equals or (dot and group not in ("method", "recipe")):
            raise ValueError(f"--set takes method.NAME=VALUE, recipe.NAME=VALUE or NAME=VALUE, got {setting!r}")
        if dot:
            getattr(choices, group)[inner] = value
        else:
            choices.setup[name] = value
    return choices


def changed(value: T, changes: dict[str, str]) -> T:
    """A dataclass value with fields replaced by what the texts mean. Raises ValueError for unknown names and types."""
    hints = typing.get_type_hints(type(value))
    names = [f.name for f in dataclasses.fields(value)]  # type: ignore[arg-type]
    for name in changes:
        if name not in names:
            raise unknown(f"choice of {type(value).__name__}", name, names)
    converted = {name: convert(name, text, hints[name]) for name, text in changes.items()}
    return dataclasses.replace(value, **converted)  # type: ignore[type-var]


def convert(name: str, text: str, hint: Any) -> Any:
    """Read `text` as the type `hint`."""
    value: Any
    if get_origin(hint) is Literal and text in get_args(hint):
        return text  # fusion=none is a word
    try:
        value = {"true": True, "false": False, "none": None}.get(text.lower(), ast.literal_eval(text))
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if isinstance(value, int) and not isinstance(value, bool) and not fits(value, hint) and fits(float(value), hint):
        value = float(value)
    if not fits(value, hint):
        raise ValueError(f"{name} must be {describe(hint)}, got {text!r}")
    return value


def fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(value, h) for h in get_args(hint))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        repeated = len(inner) == 2 and inner[1] is Ellipsis
        return isinstance(value, tuple) and (
            all(fits(v, inner[0]) for v in value)
            if repeated
            else len(value) == len(inner) and all(map(fits, value, inner))
        )
    if hint is None or hint is types.NoneType:
        return value is None
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(describe(h) for h in get_args(hint))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", types.NoneType: "none"}
    return names.get(hint, "numbers with commas between")
