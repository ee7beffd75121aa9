"""The README, the docs and the examples run as they stand."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch

import sidetune
from sidetune.cli.main import main

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))


def blocks(file, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), flags=re.S)


@pytest.fixture
def here(folder, tmp_path, monkeypatch):
    """A folder of photographs to stand in, and a small network in place of the one that has to be fetched."""
    folder.rename(tmp_path / "photos")
    pictures = tmp_path / "photos/test/grey"
    next(pictures.iterdir()).rename(pictures / "1.jpg")
    monkeypatch.chdir(tmp_path)

    def create(name, *, architecture, pretrained):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=4)

    monkeypatch.setattr("sidetune.backbones.create", create)
    return tmp_path


def test_the_readmes_python_runs(here, capsys):
    code = "\n".join(blocks("README.md", "python"))
    exec(code.replace("epochs=20", "epochs=1"), {})
    assert "Prediction(label=" in capsys.readouterr().out


def test_the_readmes_commands_run(here, monkeypatch):
    commands = [c for block in blocks("README.md", "sh") for c in block.splitlines() if c.startswith("sidetune ")]
    assert {c.split()[1] for c in commands} >= {"fit", "evaluate", "predict", "compare"}
    for command in commands:
        words = shlex.split(command.split("#")[0])
        if words[1] in ("serve", "edge"):  # two machines; tests/edge/test_device.py has them as two processes
            continue
        if words[1] in ("fit", "compare", "ablate", "search"):
            words += ["--epochs", "1"]
        words = ["1" if before == "--seeds" else word for before, word in zip(["", *words], words, strict=False)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code, command


def test_the_method_in_extend_md_keeps_the_contract_on_every_family(backbone, monkeypatch, tmp_path):
    definition, check, *_ = blocks("docs/extend.md", "python")
    assert len(definition.split("import sidetune\n")[1].strip().splitlines()) < 40
    monkeypatch.setattr(sidetune, "METHODS", dict(sidetune.METHODS), raising=False)
    scope: dict[str, object] = {}
    try:
        exec(definition, scope)
        sidetune.check_method(scope["LateScale"](last=1), backbone)
        model = sidetune.adapt(backbone, scope["LateScale"](last=1), num_classes=3)
        assert model.frozen_depth == backbone.num_blocks
    finally:
        from sidetune.methods import METHODS

        METHODS.pop("late-scale", None)


def test_the_check_in_extend_md_runs(monkeypatch):
    definition, check, *_ = blocks("docs/extend.md", "python")
    from sidetune.methods import METHODS

    try:
        exec(definition + check, {})
        assert "late-scale" in METHODS
    finally:
        METHODS.pop("late-scale", None)


@pytest.mark.filterwarnings("ignore:L-Share has nothing to scale")
def test_a_family_from_extend_md_is_its_file_and_one_entry():
    *_, definition, check = blocks("docs/extend.md", "python")
    from sidetune.backbones import FAMILIES, open_backbone
    from sidetune.methods import METHODS, find_method
    from sidetune.methods.matrix import family_names, matrix

    scope: dict[str, object] = {"sidetune": sidetune}
    try:
        exec(definition + check, scope)
        backbone = open_backbone(scope["network"])
        assert family_names()[-1] == "mixer"
        reasons = {name: by_family["mixer"] for name, by_family in matrix().items()}
        assert {name for name, reason in reasons.items() if reason} == {
            *("vpt-shallow", "vpt-deep", "noah", "lst", "lorand")
        }
        for name in METHODS.keys() - {name for name, reason in reasons.items() if reason}:
            small = {"rank": 4} if name in ("fact-tt", "fact-tk", "arc") else {}
            sidetune.check_method(find_method(name, **small), backbone)
    finally:
        FAMILIES.pop(scope.get("MlpMixer"), None)


def test_the_examples_run(here):
    import own_photos
    import plain_loop

    assert plain_loop.main("tiny", image_size=32, epochs=1) > 0.15
    assert own_photos.main("photos", "tiny", epochs=1, image_size=32).label in ("dark", "grey", "light")


def test_generated_parts_of_the_docs_are_up_to_date(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generate_docs.py", "--check"])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import generate_docs

    assert generate_docs.main() == 0, capsys.readouterr().out


def test_the_task_in_tasks_md_goes_through_the_verbs(here, monkeypatch, capsys):
    (definition,) = blocks("docs/tasks.md", "python")
    monkeypatch.setitem(sidetune.TASKS, "grades", None)
    (here / "mine.py").write_text(definition)
    monkeypatch.syspath_prepend(here)
    for words in (
        "fit photos --task grades --epochs 8 --out graded --set transform=vtab --set recipe.keep=best",
        "plan --task grades --num-classes 3",
        "evaluate graded",
        "predict graded photos/test/grey/1.jpg",
        "compare photos --methods linear,dtl+ --epochs 1 --out compared --set task=grades",
    ):
        monkeypatch.setattr(sys, "argv", ["sidetune", "--import", "mine", *words.split()])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code, words
    told = capsys.readouterr()
    assert "balanced 100.00 %" in told.out and "grades off" in told.out, "scores and the table of the comparison"
    assert "val grades off 0  lr" in told.err and "val accuracy" not in told.err
    model = sidetune.load("graded")
    assert isinstance(model.task, sidetune.Task) and model.head.out_features == 2
    images = torch.randn(8, 3, *model.card.image_size)
    outputs, targets = model(images), torch.arange(8) % 3
    pieces = [model.task.losses(outputs[p], targets[p])["above"] / 2 for p in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(sum(pieces), model.task.losses(outputs, targets)["above"])
    sidetune.plan(model)
