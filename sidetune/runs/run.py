"""A run as one value: which images, on which backbone, by which method, for which task, how. JSON both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sidetune.backbones import Backbone
from sidetune.backbones.backbone import Card
from sidetune.data.samples import Splits
from sidetune.data.sources import Source
from sidetune.data.transforms import preset_for
from sidetune.means import Means
from sidetune.methods import Method
from sidetune.model import AdaptedModel, adapt
from sidetune.recipe import Recipe
from sidetune.saved import from_saved
from sidetune.saving import described_method, method_from, place_of
from sidetune.sealed import digest_of
from sidetune.tasks import Task, described, from_description


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides what a run comes to; its seed is the recipe's."""

    source: Source | None
    """Where the images are and how they are read; None for samples of the caller's, which nobody finds again."""
    images: Mapping[str, str] = field(hash=False)
    """By part (train, val, test) a SHA-256 over files' bytes, or pixels, and targets: which images they are."""
    backbone: Card
    method: Method
    task: Task
    transform: str
    """The preset by which pictures become tensors."""
    recipe: Recipe
    """Without means, which make no other run."""

    @staticmethod
    def of(
        splits: Splits,
        backbone: Backbone,
        method: Method,
        recipe: Recipe,
        *,
        task: Task,
        transform: str | None = None,
        source: Source | None = None,
        images: Mapping[str, str] | None = None,
    ) -> Run:
        """The run of things that are open already; `images` are the digests of `splits` where they are known."""
        return Run(
            source=source,
            images=images_of(splits) if images is None else images,
            backbone=backbone.card,
            method=method,
            task=task,
            transform=preset_for(task.targets, transform),
            recipe=replace(recipe, lr=recipe.lr or method.lr, means=Means()),
        )

    @property
    def digest(self) -> str:
        """The name of the run: the same wherever data and weights lie, and by whatever means it is carried out."""
        card = self.backbone
        return digest_of(
            {
                "images": dict(self.images),
                "backbone": [card.identity, list(card.image_size), list(card.mean), list(card.std)],
                "method": described_method(self.method),
                **described(self.task),
                "transform": self.transform,
                "recipe": self.recipe.deciding(),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        told = {
            "source": None if self.source is None else asdict(self.source),
            "images": dict(self.images),
            "backbone": {**asdict(self.backbone), **place_of(self.backbone.name)},
            "method": described_method(self.method),
            **described(self.task),
            "transform": self.transform,
            "recipe": self.recipe.deciding(),
        }
        return dict(json.loads(json.dumps(told)))

    @staticmethod
    def from_dict(told: Mapping[str, Any]) -> Run:
        """What `as_dict` told. Raises DataError for what this version does not know."""
        source, card = told["source"], {n: v for n, v in told["backbone"].items() if n != "file"}
        return Run(
            source=None if source is None else from_saved(Source, source),
            images=dict(told["images"]),
            backbone=from_saved(Card, card),
            method=method_from(dict(told["method"])),
            task=from_description(told),
            transform=told["transform"],
            recipe=from_saved(Recipe, told["recipe"]),
        )

    def adapted(self, backbone: Backbone) -> AdaptedModel:
        """The run's model before its first step."""
        return adapt(backbone, self.method, task=self.task, transform=self.transform, seed=self.recipe.seed)

    def with_seed(self, seed: int) -> Run:
        return replace(self, recipe=replace(self.recipe, seed=seed))


def images_of(splits: Splits) -> dict[str, str]:
    return {part: samples.digest() for part, samples in splits.parts().items()}
