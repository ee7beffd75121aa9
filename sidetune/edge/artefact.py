"""The trained edge network on disk: the same folder that `AdaptedModel.save_pretrained` writes, both ways."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sidetune.atomic import replacing
from sidetune.edge.parameters import Parameters, Shape
from sidetune.errors import DataError, WeightsMismatch
from sidetune.recipe import Recipe
from sidetune.saved import WEIGHTS, check_finite, check_own, mark, read_config, write_description
from sidetune.wire.metadata import ModelCard


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Those of `sidetune.methods.mist.MIST`, as far as the device follows them; a saved folder names them all."""

    rank: int = 32
    layers: int = 4
    block: str = "lae"
    gather: bool = True
    k: int | None = None
    lr: float = 1e-3
    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "token"):
            raise ValueError(f"pool must be mean or token, got {self.pool!r}")
        if self.block != "lae" or not self.gather:
            raise ValueError(
                f"the device computes attention on a sum of taps (block lae, gather true), not block {self.block}, "
                f"gather {self.gather}; `sidetune export --edge` makes an ONNX graph of the others"
            )


@dataclass(frozen=True, kw_only=True)
class Artefact:
    card: ModelCard
    classes: tuple[str, ...]
    choices: Choices
    recipe: Recipe | None
    parameters: Parameters


def save(folder: Path, artefact: Artefact) -> None:
    """Write the folder, each file whole or absent. Raises NoSpace, and RunExists over weights of others."""
    check_own(folder)
    tensors = artefact.parameters.tensors
    with replacing(folder / WEIGHTS, artefact.parameters.flat.nbytes) as beside:
        save_file(tensors, beside, metadata=mark("adapter"))
    write_description(folder, describe(artefact), artefact.parameters.flat.size)


def describe(artefact: Artefact) -> dict[str, Any]:
    card = artefact.card
    backbone = {name: getattr(card, name) for name in ("name", "architecture", "digest", "image_size", "mean", "std")}
    return {
        "backbone": {**backbone, "family": ""},
        "method": {"type": "MIST", **asdict(artefact.choices)},
        "classes": list(artefact.classes),
        "transform": {"preset": card.transform, "mean": card.mean, "std": card.std},
        "recipe": artefact.recipe.deciding() if artefact.recipe else None,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "sidetune": own_version()},
    }


def own_version() -> str:
    try:
        return version("sidetune")
    except PackageNotFoundError:  # run from a folder that was copied to the device
        from sidetune import __version__

        return __version__


def load(folder: Path, card: ModelCard) -> Artefact:
    """Read what the device or PyTorch saved, for features of the service whose card this is.

    Raises FileNotFoundError or DataError for a folder that holds no whole model, ValueError for a method that the
    device does not compute, WeightsMismatch for a service that does not give what was trained on.
    """
    config = read_config(folder)
    choices, classes = choices_of(config, folder), tuple(config["classes"])
    check_service(config, card, folder)
    shape = Shape(width=card.width, num_classes=len(classes), rank=choices.rank, layers=choices.layers)
    parameters = Parameters(shape)
    try:
        tensors = load_file(folder / WEIGHTS)
        check_finite(folder / WEIGHTS, [name for name, t in tensors.items() if not np.isfinite(t).all()])
        parameters.load(tensors)
    except (SafetensorError, DataError) as e:
        raise DataError(f"{folder / WEIGHTS} is damaged or belongs to another model: {e}") from e
    return Artefact(card=card, classes=classes, choices=choices, recipe=None, parameters=parameters)


def choices_of(config: dict[str, Any], folder: Path) -> Choices:
    if "task" in config:
        raise ValueError(f"{folder} holds a model for {config['task']['name']}; the device gives one label an image")
    method = dict(config["method"])
    if (kind := method.pop("type")) != "MIST":
        raise ValueError(f"{folder} holds a model trained by {kind}; the device computes MIST")
    return Choices(**{f.name: method[f.name] for f in fields(Choices)})


def check_service(config: dict[str, Any], card: ModelCard, folder: Path) -> None:
    """Raises WeightsMismatch for other weights, pixels or normalisation."""
    about, transform = config["backbone"], config["transform"]
    pairs = {
        "weights": (about["digest"], card.digest),
        "image size": (list(about["image_size"]), list(card.image_size)),
        "transform": (transform["preset"], card.transform),
        "mean": (list(transform["mean"]), list(card.mean)),
        "std": (list(transform["std"]), list(card.std)),
    }
    wrong = [f"{what} {asked}, the service has {given}" for what, (asked, given) in pairs.items() if asked != given]
    if wrong:
        raise WeightsMismatch(f"{folder} was trained with {'; '.join(wrong)}")
