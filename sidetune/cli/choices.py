"""`--set method.rank=4 --set recipe.lr=5e-3`: any field of a method, a recipe or the run, checked against its type."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from sidetune.data.layout import Layout
from sidetune.data.reading import Levels, Reading
from sidetune.data.samples import Kind
from sidetune.errors import unknown
from sidetune.recipe import MEANS, Recipe

if TYPE_CHECKING:
    from sidetune.backbones import Backbone

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings of a run that are neither the method's nor the recipe's."""

    image_size: int | tuple[int, int] | None = None
    transform: str | None = None
    """How pictures become tensors; as targets of the kind want it if None."""
    architecture: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tune: bool = False
    """With data in VTAB-1k's form: train on 800 images and validate on 200, rather than train on all."""
    layout: Layout = "auto"
    """What the folders of an image folder are, where their names leave it open: parts, or classes."""
    levels: Levels | None = None
    """The values of black and of white in pictures of more than 8 bits."""
    max_pixels: int | None = None
    """Of the largest picture."""
    task: str = "auto"
    """What is learned: a name in `sidetune.TASKS`, or what the data is for."""

    def preset(self, kind: Kind) -> str:
        """The transform for targets of a kind. Raises ValueError for one that does not serve them."""
        from sidetune.data.transforms import preset_for

        return preset_for(kind, self.transform)

    @property
    def reading(self) -> Reading:
        return Reading(levels=self.levels, max_pixels=self.max_pixels)


def opened(backbone: str, setup: Setup) -> Backbone:
    """The backbone of a name or file, as a setup wants it."""
    from sidetune.backbones import open_backbone

    return open_backbone(
        backbone, image_size=setup.image_size, architecture=setup.architecture, mean=setup.mean, std=setup.std
    )


def several(names: str) -> list[str]:
    """`a, b` -> the names, none twice. Raises ValueError if there is none."""
    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not found:
        raise ValueError(f"expected names with commas between, got {names!r}")
    return found


def check_names(backbone: str, setup: Setup) -> None:
    """Raises ValueError for a backbone or a transform that does not exist, before anything is read or fetched."""
    from sidetune.backbones.weights import check_source
    from sidetune.data.transforms import PRESETS

    check_source(backbone, setup.architecture)
    if setup.transform is not None and setup.transform not in PRESETS:
        raise unknown("transform", setup.transform, PRESETS)


@dataclass(frozen=True)
class Settings:
    method: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, str] = field(default_factory=dict)
    means: dict[str, str] = field(default_factory=dict)
    """`recipe.micro_batch` and the like, as version 0.1 had them, too."""
    setup: dict[str, str] = field(default_factory=dict)
    task: dict[str, str] = field(default_factory=dict)


def parse(settings: Sequence[str], task: str | None = None) -> Settings:
    """Sort `name=value` words by what they belong to; `task` is one that was named apart. Raises ValueError for another
    form."""
    choices = Settings()
    for setting in settings:
        name, equals, value = setting.partition("=")
        group, dot, inner = name.partition(".")
        if not equals or (dot and group not in ("method", "recipe", "means", "task")):
            raise ValueError(
                f"--set takes method.NAME=VALUE, recipe.NAME=VALUE, means.NAME=VALUE, task.NAME=VALUE or NAME=VALUE, "
                f"got {setting!r}"
            )
        if dot:
            getattr(choices, "means" if group == "recipe" and inner in MEANS else group)[inner] = value
        else:
            choices.setup[name] = value
    if task is not None:
        choices.setup["task"] = task
    return choices


def changed_recipe(recipe: Recipe, choices: Settings, *, epochs: int | None = None, lr: str | None = None) -> Recipe:
    """The recipe with what was set, its means too; `epochs` and `lr` (auto leaves it open) where they are given."""
    recipe = changed(recipe, choices.recipe)
    recipe = dataclasses.replace(recipe, means=changed(recipe.means, choices.means))
    recipe = recipe if epochs is None else dataclasses.replace(recipe, epochs=epochs)
    if lr is None:
        return recipe
    return dataclasses.replace(recipe, lr=None) if lr == "auto" else changed(recipe, {"lr": lr})


def changed(value: T, changes: dict[str, str]) -> T:
    """A dataclass value with fields replaced by what the texts mean. Raises ValueError for unknown names and types."""
    hints = typing.get_type_hints(type(value))
    names = [f.name for f in dataclasses.fields(value) if not dataclasses.is_dataclass(hints[f.name])]  # type: ignore[arg-type]
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
    if not fits(value, hint):
        words = tuple(word.strip() for word in text.split(","))
        value = next((other for other in (with_point(value), words) if fits(other, hint)), value)
    if not fits(value, hint):
        raise ValueError(f"{name} must be {describe(hint)}, got {text!r}")
    return value


def with_point(value: Any) -> Any:
    """Whole numbers, also inside a tuple, as floating-point ones."""
    if isinstance(value, tuple):
        return tuple(map(with_point, value))
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


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
    if get_origin(hint) is tuple and get_args(hint)[0] is str:
        return "words with commas between"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", types.NoneType: "none"}
    return names.get(hint, "numbers with commas between")
