"""`sidetune extract`: the frozen half's features of a data set, on disk ahead of training."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sidetune.cli.options import JSON, Backbone, Set, SkipBad, TaskName


def extract_command(
    data: Annotated[str, typer.Argument(help="Image folder, or a data set's name, as `sidetune fit` takes it.")],
    store: Annotated[Path, typer.Option(help="Folder that stores are kept in.")],
    backbone: Backbone = "vit_base_patch16_224.augreg_in21k",
    task: TaskName = None,
    methods: Annotated[str, typer.Option(help="Whose features; names with commas between share one pass.")] = "dtl+",
    views: Annotated[int, typer.Option(help="Random views of each training image; 0 for transform=vtab.", min=0)] = 0,
    settings: Set = [],  # noqa: B006
    skip_bad: SkipBad = False,
    as_json: JSON = False,
) -> None:
    """Compute features once; `sidetune fit --store` then trains from them without running the frozen half."""
    import torch

    from sidetune.cli.choices import Setup, changed, changed_recipe, check_names, opened, parse, several
    from sidetune.cli.data import read_checked, source_of
    from sidetune.cli.progress import ERR, progress
    from sidetune.cli.tasks import task_for
    from sidetune.datasets import as_dataset
    from sidetune.methods import find_method
    from sidetune.model import adapt
    from sidetune.recipe import Recipe
    from sidetune.store import FeatureStore
    from sidetune.train.kept import keep, together

    choices = parse(settings, task)
    setup, recipe = changed(Setup(), choices.setup), changed_recipe(Recipe(), choices)
    recipe = replace(recipe, views=views)
    names = several(methods)
    chosen = [changed(find_method(name), choices.method) for name in names]
    check_names(backbone, setup)
    with progress() as report:
        splits = read_checked(source_of(data, setup, skip_bad=skip_bad), report)
        network = opened(backbone, setup)
        learned = task_for(splits.train, setup, choices)
        models = [adapt(network, method, task=learned, transform=setup.transform) for method in chosen]
        if unfrozen := [name for name, model in zip(names, models, strict=True) if model.prefix is None]:
            raise ValueError(f"no block is frozen under {', '.join(unfrozen)}, so there are no features to store")
        need, compute = together(network, models, recipe)
        per_image = compute(torch.zeros(1, 3, *network.card.image_size)).nbytes
        items = sum(len(s) * (max(views, 1) if p == "train" else 1) for p, s in splits.parts().items())
        size = f"about {per_image * items / 2**30:,.2f} GiB" if recipe.codec == "same" else "less than uncoded"
        ERR.print(f"{items:,} views of images, {per_image / 2**20:.3f} MiB each as computed; {size}")
        folders = {}
        for part, samples in splits.parts().items():
            dataset = as_dataset(samples, models[0], training=part == "train")
            kept = keep(models[0], dataset, recipe, compute, report.features, store=store, need=need)
            assert isinstance(kept, FeatureStore)
            folders[part] = kept.folder
    written = {part: sum(f.stat().st_size for f in folder.iterdir()) for part, folder in folders.items()}
    if as_json:
        print(json.dumps({part: {"folder": str(folders[part]), "bytes": written[part]} for part in folders}))
        return
    for part, folder in folders.items():
        print(f"{part}: {written[part] / 2**20:,.1f} MiB in {folder}")
    for name in names:
        words = ["sidetune", "fit", data, "--backbone", backbone, "--method", name, "--store", str(store)]
        words += ["--views", str(views)] if views else []
        words += ["--task", task] if task else []
        words += [word for setting in settings for word in ("--set", setting)]
        print(f"train from them: {shlex.join(words)}")
