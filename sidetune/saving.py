"""A trained model on disk: safetensors with the small part, one JSON that says what it belongs to, a model card."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import nn

from sidetune.atomic import replacing
from sidetune.backbones import Backbone, open_backbone
from sidetune.backbones.backbone import identity_of
from sidetune.backbones.weights import is_file
from sidetune.data.transforms import Transform
from sidetune.errors import DataError, WeightsMismatch
from sidetune.methods import METHODS, Method
from sidetune.saved import WEIGHTS, check_finite, check_own, from_saved, mark, read_config, write_description
from sidetune.seam.joined import Joined
from sidetune.tasks import Task, described, from_description
from sidetune.train.recipe import Recipe


def save(model: Joined, folder: str | Path) -> None:
    """Write the trained part, head included, and what is needed to load it onto its backbone again.

    Each file is whole or absent. Raises NoSpace, and RunExists where weights stand that sidetune did not write.
    """
    folder = Path(folder)
    check_own(folder)
    config = describe(model)
    tensors = {name: t.cpu().contiguous() for name, t in model.trained().items()}
    with replacing(folder / WEIGHTS, sum(t.nbytes for t in tensors.values())) as beside:
        save_file(tensors, beside, metadata=mark("adapter"))
    write_description(folder, config, sum(t.numel() for t in tensors.values()))


def describe(model: Joined) -> dict[str, Any]:
    return {
        "backbone": {**model.card.described(), **place_of(model.card.name)},
        "method": described_method(model.method),
        **described(model.task),
        "transform": {name: value for name, value in asdict(model.transform).items() if name != "image_size"},
        "recipe": model.recipe.deciding() if model.recipe else None,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("sidetune", "torch", "timm")},
    }


def described_method(method: Method) -> dict[str, Any]:
    """What `method_from` makes the method of again."""
    return {"type": type(method).__name__, "module": type(method).__module__, **asdict(method)}


def place_of(name: str) -> dict[str, str]:
    """Where a backbone's weights file lies, for whoever loads from another folder."""
    return {"file": str(Path(name).resolve())} if is_file(name) and Path(name).is_file() else {}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a saved model is made of, but for its weights."""

    backbone: Backbone
    method: Method
    task: Task
    transform: Transform
    recipe: Recipe | None


def read_parts(folder: Path, *, backbone: str | nn.Module | Backbone | None = None, force: bool = False) -> Loaded:
    """What `save` wrote, on its backbone; raises as `sidetune.load` does."""
    config = read_config(folder, force=force)
    about = config["backbone"]
    source = backbone if backbone is not None else found_again(about, folder)
    if source == "":
        raise ValueError(
            f"{folder} was trained on a network without a name ({about['architecture'] or about['family']}); "
            f"pass it as backbone="
        )
    size = tuple(about["image_size"])
    opened = source if isinstance(source, Backbone) else opened_as(about, source)
    if not force:
        check_weights(about, opened, folder)
    if opened.card.image_size != size:
        raise ValueError(f"{folder} was trained at {size}, but the backbone is open at {opened.card.image_size}")
    return Loaded(
        backbone=opened,
        method=method_from(config["method"]),
        task=from_description(config),
        transform=from_saved(Transform, {"image_size": size, **config["transform"]}),
        recipe=from_saved(Recipe, config["recipe"]) if config["recipe"] else None,
    )


def load_weights(model: Joined, folder: Path) -> None:
    """Give a model that is made already the weights that `save` wrote of one like it. Raises as `load` does."""
    read_config(folder)
    load_trained(model, folder)


def load_trained(model: Joined, folder: Path) -> None:
    try:
        tensors = load_file(folder / WEIGHTS)
        check_finite(folder / WEIGHTS, [name for name, t in tensors.items() if not t.isfinite().all()])
        model.load_trained(tensors)
    except DataError:
        raise
    except (safetensors.SafetensorError, ValueError) as e:
        raise DataError(f"{folder / WEIGHTS} is damaged or belongs to another model: {e}") from e


def opened_as(about: dict[str, Any], source: str | nn.Module) -> Backbone:
    """The backbone that a saved model tells of, as version 0.1 opened it where the model was trained on that."""

    def opened(as_0_1: bool) -> Backbone:
        architecture, size = about["architecture"] or None, tuple(about["image_size"])
        mean, std = about["mean"], about["std"]
        return open_backbone(source, image_size=size, architecture=architecture, mean=mean, std=std, as_0_1=as_0_1)

    backbone = opened(as_0_1=False)
    of_0_1 = backbone.card.revised and backbone.card.digest == about["digest"]
    return opened(as_0_1=True) if of_0_1 else backbone


def check_weights(about: dict[str, Any], opened: Backbone, folder: Path) -> None:
    """Raises WeightsMismatch for a backbone that does not compute what the model was trained on."""
    card = opened.card
    same = {card.identity}
    if tuple(about["image_size"]) == opened.native_size:  # where all versions agree
        same |= {identity_of(card.digest, revised) for revised in (False, True)}
    if about["digest"] in same:
        return
    if about["digest"] == card.digest:
        raise WeightsMismatch(
            f"{folder} is of version 0.1, which scaled the windows of this {card.family} with the image; pass the "
            f"network itself, its name or file as backbone=, in place of one that is open"
        )
    raise WeightsMismatch(
        f"{folder} was trained on weights {about['digest'][:12]}... of {about['name'] or about['architecture']}, "
        f"but these are {card.identity[:12]}...; give the right backbone=, or load them anyway with "
        f"force=True (--force)"
    )


def found_again(about: dict[str, Any], folder: Path) -> str:
    """The name that opens a backbone: its weights file where it was, or, as the name says, beside whoever asks."""
    name: str = about["name"]
    if not is_file(name) or Path(name).is_file():
        return name
    if Path(about.get("file", "")).is_file():
        return str(about["file"])
    raise FileNotFoundError(
        f"{folder} was trained on the weights file {about.get('file', name)}, which is not there; say where it is by "
        f"--backbone FILE (backbone=)"
    )


def method_from(saved: dict[str, Any]) -> Method:
    """The method of a saved model; one of your own is found if it stands in METHODS."""
    types = [type(method) for method in METHODS.values() if type(method).__name__ == saved["type"]]
    module = saved.get("module")
    if module is not None:  # files of earlier versions do not tell
        inside = [t for t in types if t.__module__.startswith("sidetune.") == module.startswith("sidetune.")]
        types = [t for t in inside if t.__module__ == module] or inside
    if not types:
        raise ValueError(
            f"the method {saved['type']} of the module {module} is not known; import what puts it into "
            f"sidetune.METHODS (on the command line: sidetune --import {module} ...)"
        )
    return from_saved(types[0], {name: value for name, value in saved.items() if name not in ("type", "module")})
