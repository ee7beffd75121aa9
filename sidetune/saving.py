"""A trained model on disk: safetensors with the small part, one JSON that says what it belongs to, a model card."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sidetune.atomic import replacing
from sidetune.backbones import Backbone, open_backbone
from sidetune.backbones.backbone import identity_of
from sidetune.backbones.weights import digest_of as digest_of_tensors
from sidetune.backbones.weights import is_file
from sidetune.data.transforms import Transform
from sidetune.errors import DataError, WeightsMismatch
from sidetune.methods import METHODS, Method
from sidetune.recipe import Recipe
from sidetune.saved import WEIGHTS, check_finite, check_own, from_saved, mark, read_config, write_description
from sidetune.sealed import digest_of
from sidetune.seam.joined import Joined
from sidetune.tasks import Task, described, from_description


def described_method(method: Method) -> dict[str, Any]:
    """What `method_from` makes the method of again."""
    return {"type": type(method).__name__, "module": type(method).__module__, **asdict(method)}


def placed(name: str) -> str:
    """A backbone's weights file as it is found from anywhere; a name as it is, whatever stands here under it."""
    return place_of(name).get("file", name)


def place_of(name: str) -> dict[str, str]:
    """Where a backbone's weights file lies, for whoever loads from another folder."""
    return {"file": str(Path(name).resolve())} if is_file(name) and Path(name).is_file() else {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """What was trained for one task, head included, and what it belongs to: small, named, and told from others by its
    digest. Any number of them go onto one open backbone (`sidetune.load(adapter, backbone=...)`)."""

    name: str
    """As its owner calls it: that of the folder it was read from."""
    backbone: Mapping[str, Any]
    """The card of the backbone, as saved models have it."""
    method: Method
    task: Task
    transform: Transform
    recipe: Recipe | None
    tensors: Mapping[str, Tensor] = field(repr=False)
    """By the name of the parameter, on the CPU."""
    folder: Path | None = None
    """Where it was read from, for messages."""

    @staticmethod
    def of(model: Joined, name: str, tensors: Mapping[str, Tensor] | None = None) -> Adapter:
        """That of a model, as it is now; with `tensors` those in place of a copy of the model's."""
        if tensors is None:
            tensors = {name: t.cpu().clone().contiguous() for name, t in model.trained().items()}
        return Adapter(
            name=name,
            backbone={**model.card.described(), **place_of(model.card.name)},
            method=model.method,
            task=model.task,
            transform=model.transform,
            recipe=model.recipe,
            tensors=tensors,
        )

    @staticmethod
    def read(folder: str | Path, *, force: bool = False) -> Adapter:
        """What `save` wrote. Raises FileNotFoundError or DataError for a folder that holds no whole one."""
        folder = Path(folder)
        config = read_config(folder, force=force)
        about = config["backbone"]
        return Adapter(
            name=folder.resolve().name,
            backbone=about,
            method=method_from(config["method"]),
            task=from_description(config),
            transform=from_saved(Transform, {"image_size": tuple(about["image_size"]), **config["transform"]}),
            recipe=from_saved(Recipe, config["recipe"]) if config["recipe"] else None,
            tensors=read_tensors(folder / WEIGHTS),
            folder=folder,
        )

    def save(self, folder: str | Path) -> None:
        """Write it. Each file is whole or absent. Raises NoSpace, and RunExists where weights stand that sidetune did
        not write."""
        folder = Path(folder)
        check_own(folder)
        with replacing(folder / WEIGHTS, sum(t.nbytes for t in self.tensors.values())) as beside:
            save_file(dict(self.tensors), beside, metadata=mark("adapter"))
        write_description(folder, self.described(), sum(t.numel() for t in self.tensors.values()))

    def described(self) -> dict[str, Any]:
        """All but the tensors, for JSON."""
        return {
            "backbone": dict(self.backbone),
            "method": described_method(self.method),
            **described(self.task),
            "transform": {name: value for name, value in asdict(self.transform).items() if name != "image_size"},
            "recipe": self.recipe.deciding() if self.recipe else None,
            "versions": {"python": platform.python_version()} | {p: version(p) for p in ("sidetune", "torch", "timm")},
        }

    def __str__(self) -> str:
        return self.name if self.folder is None else str(self.folder)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that its answers depend on, whatever it is called and however it was trained."""
        about = self.described()
        decides = {name: value for name, value in about.items() if name not in ("recipe", "versions", "backbone")}
        card = {name: self.backbone[name] for name in ("digest", "image_size")}
        tensors = digest_of_tensors(self.tensors)
        return digest_of(json.loads(json.dumps({**decides, "backbone": card, "tensors": tensors})))


def save(model: Joined, folder: str | Path) -> None:
    """Write the trained part, head included, and what it takes to load it onto its backbone again: `Adapter.save`."""
    tensors = {name: t.cpu().contiguous() for name, t in model.trained().items()}
    Adapter.of(model, Path(folder).resolve().name, tensors).save(folder)


def describe(model: Joined) -> dict[str, Any]:
    return Adapter.of(model, "", {}).described()


def opened_for(adapter: Adapter, backbone: str | nn.Module | Backbone | None, *, force: bool = False) -> Backbone:
    """The backbone of an adapter, fetched by name or as it is given. Raises as `sidetune.load` does."""
    about = adapter.backbone
    source = backbone if backbone is not None else found_again(about, adapter)
    if source == "":
        raise ValueError(
            f"{adapter} was trained on a network without a name ({about['architecture'] or about['family']}); "
            f"pass it as backbone="
        )
    size = tuple(about["image_size"])
    opened = source if isinstance(source, Backbone) else opened_as(about, source)
    if not force:
        check_weights(about, opened, adapter)
    if opened.card.image_size != size:
        raise ValueError(f"{adapter} was trained at {size}, but the backbone is open at {opened.card.image_size}")
    return opened


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except safetensors.SafetensorError as e:
        raise damaged(path, e) from e
    check_finite(path, [name for name, t in tensors.items() if not t.isfinite().all()])
    return tensors


def damaged(path: Path | str, e: Exception) -> DataError:
    return DataError(f"{path} is damaged or belongs to another model: {e}")


def opened_as(about: Mapping[str, Any], source: str | nn.Module) -> Backbone:
    """The backbone that a saved model tells of, as version 0.1 opened it where the model was trained on that."""

    def opened(as_0_1: bool) -> Backbone:
        architecture, size = about["architecture"] or None, tuple(about["image_size"])
        mean, std = about["mean"], about["std"]
        return open_backbone(source, image_size=size, architecture=architecture, mean=mean, std=std, as_0_1=as_0_1)

    backbone = opened(as_0_1=False)
    of_0_1 = backbone.card.revised and backbone.card.digest == about["digest"]
    return opened(as_0_1=True) if of_0_1 else backbone


def check_weights(about: Mapping[str, Any], opened: Backbone, adapter: Adapter) -> None:
    """Raises WeightsMismatch for a backbone that does not compute what the model was trained on."""
    card = opened.card
    same = {card.identity}
    if tuple(about["image_size"]) == opened.native_size:  # where all versions agree
        same |= {identity_of(card.digest, revised) for revised in (False, True)}
    if about["digest"] in same:
        return
    if about["digest"] == card.digest:
        raise WeightsMismatch(
            f"{adapter} is of version 0.1, which made something else of this {card.family} at this size; pass the "
            f"network itself, its name or file as backbone=, in place of one that is open"
        )
    raise WeightsMismatch(
        f"{adapter} was trained on weights {about['digest'][:12]}... of {about['name'] or about['architecture']}, "
        f"but these are {card.identity[:12]}...; give the right backbone=, or load them anyway with "
        f"force=True (--force)"
    )


def found_again(about: Mapping[str, Any], asker: object) -> str:
    """The name that opens a backbone: its weights file where it was, or, as the name says, beside whoever asks."""
    name: str = about["name"]
    if not is_file(name) or Path(name).is_file():
        return name
    if Path(about.get("file", "")).is_file():
        return str(about["file"])
    raise FileNotFoundError(
        f"{asker} was trained on the weights file {about.get('file', name)}, which is not there; say where it is by "
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
