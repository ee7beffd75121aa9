"""`--resume`: what stands in a run's folder is the run's; the command line names only what is to differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sidetune import saving
from sidetune.cli.choices import Setup
from sidetune.cli.named import Asked
from sidetune.data import sources
from sidetune.methods import find_method
from sidetune.saved import from_saved
from sidetune.saving import method_from
from sidetune.train.folder import recipe_of


def about(start: Asked, setup: Setup, data: str, named_recipe: str | None) -> dict[str, Any]:
    """What a run's folder keeps of the command line, beside what decides the result."""
    return {
        "data": sources.placed(data),
        "backbone": saving.placed(start.backbone),
        "preset": start.preset,
        "named_recipe": named_recipe,
        "setup": asdict(setup),
    }


def gone_on_with(request: Mapping[str, Any], start: Asked, *, method: str | None, backbone: str | None) -> Asked:
    """The choices of the run that was asked for by `request`, but for a method and a backbone that are named anew."""
    told, card = request.get("about") or {}, request["backbone"]
    preset = told.get("preset", start.preset)
    setup = {name: card[name] for name in ("image_size", "architecture", "mean", "std")}
    setup = told.get("setup") or {**setup, "transform": request["transform"]["preset"]}
    return replace(
        start,
        backbone=backbone or told.get("backbone") or card["name"] or start.backbone,
        preset=method or preset,
        method=method_from(request["method"]) if method in (None, preset) else find_method(method),
        recipe=recipe_of(request),
        setup=from_saved(Setup, setup),
        task={},
    )
