"""Verbs over a saved model: `sidetune evaluate`, `predict`, `export`, `merge`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidetune.cli.options import JSON, MaxPixels, SkipBad
from sidetune.data.names import printable
from sidetune.errors import DataError

if TYPE_CHECKING:
    from sidetune.data.samples import Samples
    from sidetune.model import AdaptedModel
    from sidetune.tasks.task import Answer

Model = Annotated[Path, typer.Argument(help="Folder of a saved model (the output folder of `sidetune fit`).")]
Force = Annotated[bool, typer.Option("--force", help="Load although the backbone's weights are not those trained on.")]
BackboneFile = Annotated[
    str | None, typer.Option("--backbone", help="The backbone's weights, where the saved name does not find them.")
]


MERGED = (".safetensors", ".pth", ".pt", ".bin")
"""Endings of weights that timm loads."""


def open_model(folder: Path, backbone: str | None, force: bool) -> AdaptedModel:
    import torch

    from sidetune.model import load

    return load(folder, backbone=backbone, force=force).to("cuda" if torch.cuda.is_available() else "cpu")


def evaluate_command(
    model: Model,
    data: Annotated[
        str | None, typer.Argument(help="Labelled images; those the model was trained on if not given.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="train, val, test or any folder beside these, where the data has parts.")
    ] = None,
    backbone: BackboneFile = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    max_pixels: MaxPixels = None,
    as_json: JSON = False,
) -> None:
    """Score a model on labelled images: a folder of classes is taken whole, one with parts by its test part."""
    from sidetune.cli.data import checked, notes_afterwards
    from sidetune.cli.progress import progress
    from sidetune.train.evaluate import evaluate

    loaded = open_model(model, backbone, force)
    with progress() as report:
        with notes_afterwards():
            name, samples = labelled(model, loaded, data, part, max_pixels)
            samples = checked(samples, report, skip_bad=skip_bad)
        score = evaluate(loaded, samples)
    if as_json:
        print(json.dumps({"data": name, **score.described()}))
    else:
        print(f"{name}: {score.in_words()} ({score.num_images:,} images)")


def labelled(
    folder: Path, model: AdaptedModel, data: str | None, part: str | None, max_pixels: int | None = None
) -> tuple[str, Samples]:
    """What to score on, and what it is called. A folder the model's run was split from is split the same way again."""
    from sidetune.data.reading import Reading
    from sidetune.data.sources import read_scored
    from sidetune.sealed import is_as_written, parsed
    from sidetune.train.folder import RESULT

    record, instead = folder / "run" / RESULT, "name the images and what they are, or train again"
    run = parsed(record, instead) if record.exists() else {}
    if run and not is_as_written(record, run):
        raise DataError(f"{record} is damaged: it is not as it was written; {instead}")
    source = data or run.get("data")
    if source is None:
        raise DataError(f"{folder} does not say what it was trained on; name the images to score on")
    is_same = Path(source).exists() and str(Path(source).resolve()) == run.get("data")
    return read_scored(
        source,
        model.classes,
        part=part,
        layout=run.get("layout", "auto") if is_same else "auto",
        split=is_same,
        reading=Reading(levels=model.transform.levels, max_pixels=max_pixels),
        task=model.task.targets,
    )


def predict_command(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(help="How many labels to give for an image.", min=1)] = 1,
    backbone: BackboneFile = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    max_pixels: MaxPixels = None,
    draw: Annotated[
        Path | None, typer.Option(help="Folder for pictures with the answers over them (segmentation, detection).")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for answers as mask files (segmentation).")] = None,
    as_json: JSON = False,
) -> None:
    """Label images, say their numbers, the class of every pixel, or where objects are."""
    from sidetune.data.files import images_under
    from sidetune.outputs import write_picture

    paths = [found for given in images for found in (images_under(given) if given.is_dir() else [given])]
    if not paths:
        raise DataError(f"no images in {', '.join(map(str, images))}")
    loaded = open_model(model, backbone, force)
    if draw and masks and draw.resolve() == masks.resolve():
        raise ValueError(f"--draw and --masks write files of the same names; give each a folder of its own, not {draw}")
    rows, taken = [], dict[Path, Path]()
    answers: Iterator[tuple[Path, Any]] = predicted(loaded, paths, top=top, skip_bad=skip_bad, max_pixels=max_pixels)
    for path, found in answers:
        check_shown(found, draw, masks, loaded.task.targets)
        files = {}
        for kind, folder in (("drawn", draw), ("mask", masks)):
            if folder is not None:
                shown = loaded.shown(path, max_pixels=max_pixels) if kind == "drawn" else None
                files[kind] = write_picture(found.mask() if shown is None else found.drawn(shown), folder, path, taken)
        if as_json:
            rows.append({"image": printable(path), **found.described(), **{k: str(f) for k, f in files.items()}})
        else:
            print(f"{printable(path)}: {found.in_words(top)}")
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))


def check_shown(found: Answer, draw: Path | None, masks: Path | None, kind: str) -> None:
    """Raises ValueError where an answer cannot be shown as is asked."""
    from sidetune.tasks.task import Masked, Placed

    if (draw or masks) and not isinstance(found, Placed):
        raise ValueError(f"--draw and --masks are for answers about places, and this model's are {kind}")
    if masks and not isinstance(found, Masked):
        raise ValueError(f"--masks is for a class at every pixel (segmentation); {kind} has none, --draw shows it")


def predicted(
    model: AdaptedModel, paths: Sequence[Path], *, top: int, skip_bad: bool, max_pixels: int | None, at_once: int = 32
) -> Iterator[tuple[Path, Answer]]:
    """Files with their labels; bad ones raise DataError, or are left out and named."""
    from sidetune.cli.progress import ERR

    for start in range(0, len(paths), at_once):
        shown = {}
        for path in paths[start : start + at_once]:
            try:
                shown[path] = model.shown(path, max_pixels=max_pixels)
            except DataError as e:
                if not skip_bad:
                    raise DataError(f"{e}\nRemove it, or leave such images out with --skip-bad") from e
                ERR.print(f"skipped: {e}", style="yellow", markup=False)
        if shown:
            yield from zip(shown, model.answer(list(shown.values()), top=top), strict=True)


def export_command(
    model: Model,
    out: Annotated[Path, typer.Argument(help="The file to write, NAME.onnx.")],
    edge: Annotated[bool, typer.Option("--edge", help="Only what a device runs: features in (MIST).")] = False,
    backbone: BackboneFile = None,
    force: Force = False,
    as_json: JSON = False,
) -> None:
    """Write the adapted model, or its edge half, as an ONNX graph, checked against the original."""
    from sidetune.export import export_onnx

    difference = export_onnx(open_model(model, backbone, force), out, edge=edge)
    if as_json:
        print(json.dumps({"file": str(out), "bytes": out.stat().st_size, "largest_difference": difference}))
        return
    print(f"wrote {out}, {out.stat().st_size / 2**20:.1f} MiB; its logits differ by at most {difference:.1e}")


def merge_command(
    model: Model,
    out: Annotated[Path, typer.Argument(help="The file to write, NAME.safetensors or NAME.pth.")],
    backbone: BackboneFile = None,
    force: Force = False,
) -> None:
    """Fold the trained part into the backbone: weights that timm loads by itself (not for dtl and vpt)."""
    from sidetune.merging import built_with
    from sidetune.outputs import write_merged

    if out.suffix not in MERGED:
        raise ValueError(f"what timm loads ends in {', '.join(MERGED)}, got {out}")
    loaded = open_model(model, backbone, force).cpu()
    merged = loaded.merge()
    state = {name: t.contiguous() for name, t in merged.state_dict().items()}
    write_merged(state, out)
    choices = ", ".join(f"{name}={value!r}" for name, value in built_with(loaded, merged).items())
    print(f"wrote {out}; load it with")
    print(f"  timm.create_model('{loaded.card.architecture}', {choices}, checkpoint_path={str(out)!r})")
