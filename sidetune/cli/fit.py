"""`sidetune fit`: train on a folder of images."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidetune.cli.options import JSON, Epochs, MemoryBudget, Overwrite, RecipesBackbone, Set, SkipBad, TaskName

if TYPE_CHECKING:
    from sidetune.model import AdaptedModel

DEFAULT_METHOD = "dtl+"


def fit_command(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder with train/CLASS/*.jpg (and val/, test/), or of classes alone; that of the run with --resume."
        ),
    ] = None,
    backbone: RecipesBackbone = None,
    method: Annotated[
        str | None, typer.Option(help=f"See `sidetune methods`; the recipe's, or {DEFAULT_METHOD}, if not given.")
    ] = None,
    task: TaskName = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run and the model; runs/DATA-METHOD if not given.")
    ] = None,
    epochs: Epochs = None,
    lr: Annotated[str | None, typer.Option(help="Learning rate, or auto: tried on validation images.")] = None,
    k: Annotated[str | None, typer.Option(help="MIST: sum the taps 0 to k; auto: tried on validation images.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="All choices of a paper or of a run in one, see `sidetune recipes`.")
    ] = None,
    settings: Set = [],  # noqa: B006
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    memory_budget: MemoryBudget = None,
    store: Annotated[Path | None, typer.Option(help="Keep features on disk here, and find them again.")] = None,
    views: Annotated[int, typer.Option(help="Random views an image whose features are kept; 0: augment anew.")] = 0,
    as_json: JSON = False,
) -> None:
    """Fine-tune a backbone on your images and score it on the test images."""
    from contextlib import ExitStack

    from sidetune.choose.look import prepare
    from sidetune.cli.choices import changed, changed_recipe, check_names, opened, parse
    from sidetune.cli.data import read_checked, source_of
    from sidetune.cli.named import asked
    from sidetune.cli.plan import parse_bytes
    from sidetune.cli.progress import ERR, progress
    from sidetune.cli.resumed import about, gone_on_with
    from sidetune.cli.tasks import task_for, with_choices
    from sidetune.cli.trials import chosen_for
    from sidetune.data.sources import name_of
    from sidetune.errors import DataError
    from sidetune.locked import worked_on
    from sidetune.measure.plan import fit_budget, told
    from sidetune.memo import Memo
    from sidetune.runs.carry_out import Ready, carry_out
    from sidetune.runs.run import Run
    from sidetune.tasks import from_description
    from sidetune.train.folder import TRIALS, Folder

    choices = parse(settings, task)
    start = asked(recipe, method, backbone, DEFAULT_METHOD)
    if out is None:
        if data is None:
            raise ValueError("name the images to train on, or the --out folder of a run to --resume")
        out = Path("runs") / f"{name_of(data)}-{start.preset}"
    folder = Folder(out)
    folder.check_free(resume=resume, overwrite=overwrite)
    before = folder.asked() if resume else None
    if before is not None and recipe in (None, (before.get("about") or {}).get("named_recipe")):
        start = gone_on_with(before, start, method=method, backbone=backbone)
        data = data or before.get("about", {}).get("data")
    elif resume and before is None:
        tried = " after the trials that are kept" if (folder.path / TRIALS).exists() else ""
        ERR.print(f"nothing to resume in {out}; a run begins{tried}", markup=False)
    if data is None:
        raise DataError(f"{out} does not say what it was trained on; name the images")
    choices = replace(choices, task={**start.task, **choices.task})
    setup = changed(start.setup, choices.setup)
    if k is not None:
        choices.method["k"] = k
    search_lr, left_open = lr == "auto", [name for name, value in choices.method.items() if value == "auto"]
    chosen_recipe = changed_recipe(start.recipe, choices, epochs=epochs, lr=None if search_lr else lr)
    chosen_recipe = replace(chosen_recipe, views=views or chosen_recipe.views)
    for name in left_open:
        del choices.method[name]
    chosen_method = changed(start.method, choices.method)
    is_decided = before is not None and chosen_method == start.method

    check_names(start.backbone, setup)
    with progress() as report, ExitStack() as held:
        source = source_of(data, setup, skip_bad=skip_bad)
        splits = read_checked(source, report)
        goes_on = before is not None and start.setup.task == setup.task
        if goes_on:
            begun = with_choices(from_description(before or {}), choices)
        else:
            begun = task_for(splits.train, setup, choices)
        transform = setup.preset(begun.targets)
        network = opened(start.backbone, setup)
        held.enter_context(worked_on(out))
        if not is_decided:
            chosen_method = prepare(
                chosen_method,
                network,
                splits.train,
                transform=transform,
                seed=chosen_recipe.seed,
                batch_size=chosen_recipe.batch_size,
            )
        run = Run.of(splits, network, chosen_method, chosen_recipe, task=begun, transform=transform, source=source)
        if (search_lr or left_open) and not is_decided:
            trials = Memo(out / "run" / TRIALS)
            if not resume:
                trials.answers.clear()
            run = chosen_for(
                run,
                splits,
                network,
                report,
                lr=search_lr,
                rates=start.rates,
                left_open=left_open,
                means=chosen_recipe.means,
                memo=trials,
            )
        having, means = Ready(splits=splits, model=run.adapted(network)), chosen_recipe.means
        del network  # methods that train the backbone have copied it
        if memory_budget is not None:
            frugal, memory = fit_budget(having.model, chosen_recipe, parse_bytes(memory_budget))
            means, ways = frugal.means, told(frugal) or "nothing has to be saved"
            ERR.print(f"within {memory_budget}: {ways}; {memory.peak / 2**20:,.0f} MiB at the peak")
        ERR.print(f"{start.preset} on {in_words(having.model)}")
        done = carry_out(
            run,
            means,
            report,
            having=having,
            out=out,
            store=store,
            resume=resume,
            overwrite=overwrite,
            about=about(start, setup, data, recipe),
        )
        if resume and done.num_found == len(done.history):
            ERR.print(f"the run in {out} was finished; it is scored again", markup=False)
    if as_json:
        print(json.dumps(done.as_dict()))
        return
    for part, score in done.scores.items():
        print(f"{part} {score.in_words()}")
    print(f"model in {out}; try: sidetune predict {shlex.quote(str(out))} IMAGE")


def in_words(model: AdaptedModel) -> str:
    from sidetune.measure.parameters import count

    parameters, (height, width) = count(model), model.card.image_size
    return (
        f"{model.card.name}, {height} x {width} px: {parameters.trainable:,} trained parameters + "
        f"{parameters.head:,} of the head; {model.frozen_depth} of {model.num_blocks} blocks frozen"
    )
