"""Verbs over a saved model: `sidetune evaluate`, `predict`, `export`, `merge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidetune.cli.options import JSON, SkipBad
from sidetune.errors import DataError

if TYPE_CHECKING:
    from sidetune.data.samples import Samples
    from sidetune.model import AdaptedModel

Model = Annotated[Path, typer.Argument(help="Folder of a saved model (the output folder of `sidetune fit`).")]
Force = Annotated[bool, typer.Option("--force", help="Load although the backbone's weights are not those trained on.")]
BackboneFile = Annotated[
    str | None, typer.Option("--backbone", help="The backbone's weights, where the saved name does not find them.")
]


def open_model(folder: Path, backbone: str | None, force: bool) -> AdaptedModel:
    import torch

    from sidetune.saving import load

    return load(folder, backbone=backbone, force=force).to("cuda" if torch.cuda.is_available() else "cpu")


def evaluate_command(
    model: Model,
    data: Annotated[
        str | None, typer.Argument(help="Labelled images; those the model was trained on if not given.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="train, val or test, where the data has parts; test if not given.")
    ] = None,
    backbone: BackboneFile = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    as_json: JSON = False,
) -> None:
    """Score a model on labelled images: a folder of classes is taken whole, one with parts by its test part."""
    from sidetune.cli.data import checked
    from sidetune.cli.progress import progress
    from sidetune.train.evaluate import evaluate

    loaded = open_model(model, backbone, force)
    with progress() as report:
        name, samples = labelled(model, loaded, data, part)
        score = evaluate(loaded, checked(samples, report, skip_bad=skip_bad))
    if as_json:
        result = {
            "data": name,
            "accuracy": score.accuracy,
            "num_images": score.num_images,
            "num_correct": score.num_correct,
        }
        print(json.dumps(result))
    else:
        print(f"{name}: accuracy {100 * score.accuracy:.2f} % ({score.num_correct:,} of {score.num_images:,})")


def labelled(folder: Path, model: AdaptedModel, data: str | None, part: str | None) -> tuple[str, Samples]:
    """What to score on, and what it is called. A folder the model's run was split from is split the same way again."""
    from sidetune.data.folders import PARTS, read_folder
    from sidetune.data.named import NAMED, read_data

    record = folder / "run" / "result.json"
    trained_on = json.loads(record.read_text())["data"] if record.exists() else None
    source = data or trained_on
    if source is None:
        raise DataError(f"{folder} does not say what it was trained on; name the images to score on")
    path = Path(source)
    has_parts = source in NAMED or any((path / n).exists() for names in PARTS.values() for n in names)
    if has_parts or part or (trained_on and path.exists() and str(path.resolve()) == trained_on):
        parts = read_data(source, tune=part == "val").parts()
        part = part or ("test" if "test" in parts else "val")
        if part not in parts:
            raise DataError(f"{source} has no part {part!r}; it has {', '.join(parts)}")
        return f"{source} ({part})", parts[part]
    return source, read_folder(path, model.task.classes)


def predict_command(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(help="How many labels to give for an image.", min=1)] = 1,
    backbone: BackboneFile = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    as_json: JSON = False,
) -> None:
    """Label images."""
    from sidetune.cli.progress import ERR
    from sidetune.data.folders import images_under
    from sidetune.data.images import open_image

    paths = [found for given in images for found in (images_under(given) if given.is_dir() else [given])]
    if not paths:
        raise DataError(f"no images in {', '.join(map(str, images))}")
    loaded = open_model(model, backbone, force)
    good = []
    for path in paths:
        try:
            open_image(path)
        except DataError as e:
            if not skip_bad:
                raise
            ERR.print(f"skipped: {e}", style="yellow", markup=False)
        else:
            good.append(path)
    predictions = loaded.predict(good, top=top)
    if as_json:
        rows = [{"image": str(p), "top": [list(t) for t in q.top]} for p, q in zip(good, predictions, strict=True)]
        print(json.dumps(rows, ensure_ascii=False))
        return
    for path, prediction in zip(good, predictions, strict=True):
        print(f"{path}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in prediction.top))


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
    out: Annotated[Path, typer.Argument(help="The file to write, NAME.safetensors.")],
    backbone: BackboneFile = None,
    force: Force = False,
) -> None:
    """Fold the trained part into the backbone: weights that timm loads by itself (not for dtl and vpt)."""
    from safetensors.torch import save_file

    from sidetune.atomic import replacing

    loaded = open_model(model, backbone, force).cpu()
    state = {name: t.contiguous() for name, t in loaded.merge().state_dict().items()}
    with replacing(out, sum(t.nbytes for t in state.values())) as beside:
        save_file(state, beside)
    pooling = ", global_pool='avg'" if loaded.card.family == "vit" and loaded.suffix.pool_name == "mean" else ""
    size = f", img_size={loaded.card.image_size}" if loaded.card.family in ("vit", "swin") else ""
    print(f"wrote {out}; load it with")
    print(
        f"  timm.create_model('{loaded.card.architecture}', num_classes={len(loaded.task.classes)}{size}{pooling}, "
        f"checkpoint_path='{out}')"
    )
