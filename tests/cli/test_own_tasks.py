"""A task of a user's own through the verbs: every one learns, plans, measures and searches what is asked for."""

import json
import sys

import pytest

from sidetune.cli.choices import convert
from sidetune.runs.folder import ANSWERS, output_folder
from sidetune.tasks import TASKS

MINE = """
from dataclasses import dataclass
from typing import ClassVar

import sidetune
from sidetune.tasks.classification import Classification


@dataclass(frozen=True)
class OffByScore:
    num_images: int
    off_by: float

    @property
    def values(self):
        return {"off_by": self.off_by, "num_wrong": self.off_by}

    def described(self):
        return {**self.values, "num_images": self.num_images}

    def in_words(self):
        return f"off by {self.off_by:.2f}"


class OffByMeter:
    def __init__(self):
        self.differences = []

    def add(self, outputs, targets):
        self.differences += (outputs.argmax(dim=1) - targets).abs().tolist()

    def score(self):
        return OffByScore(len(self.differences), sum(self.differences) / len(self.differences))


@dataclass(frozen=True, kw_only=True)
class Steps(Classification):
    metric: str = "off_by"
    nicknames: tuple[str, ...] = ()
    metrics: ClassVar = (sidetune.Metric("off_by", "steps off", lower_is_better=True),)

    def __post_init__(self):
        pass

    def meter(self):
        return OffByMeter()


sidetune.TASKS["steps"] = Steps
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_steps.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "--import", "mine_steps"
    TASKS.pop("steps", None)
    sys.modules.pop("mine_steps", None)


QUICK = ("--epochs", "1", "--set", "transform=vtab", "--set", "recipe.batch_size=8")


def test_a_score_without_an_accuracy_is_trained_told_and_compared_by_its_own_figure(run, folder, small, mine, tmp_path):
    own = (*small, *QUICK, "--task", "steps")
    said = run(*mine, "fit", folder, *own, "--out", "m", "--set", "recipe.keep=best", said=True)
    assert "val steps off " in said and "accuracy" not in said and "num_wrong" not in said
    tried = run(*mine, "fit", folder, *own, "--out", "auto", "--lr", "auto", "--method", "linear", said=True)
    assert "epochs: val steps off 0" in tried or "epochs: val steps off 1" in tried, "no minus, no per cent"
    shown = run(*mine, "compare", folder, *own, "--methods", "linear", "--out", "c")
    assert "steps off" in shown and "num_wrong" not in shown
    assert "| method | steps off |" in (tmp_path / "c/report.md").read_text()
    run(*mine, "ablate", folder, "dtl+:rank=1", *own, "--out", "a")
    assert json.loads((tmp_path / "a/results.json").read_text())["metric_is"]["lower_is_better"]


def test_a_search_is_by_the_task_that_is_asked_for(run, folder, small, mine):
    words = ("--max-parameters", "30000", "--generations", "1", "--population", "2", *QUICK, "--out", "found")
    search = (*mine, "search", folder, *small, "--task", "steps", *words, "--set", "method.sizes=1,5")
    said = run(*search)
    assert "steps off 0." in said or "steps off 1." in said
    found = json.loads(run(*search, "--overwrite", "--json"))
    assert found["task"]["task"]["name"] == "steps" and found["metric"] == "off_by"
    assert found["val_accuracy"] == min(s["score"] for s in found["scored"]) >= 0
    assert found["train_it"][found["train_it"].index("--task") + 1] == "steps"
    assert "unknown metric 'of_by'" in run(*search, "--set", "task.metric=of_by", "--overwrite", fails=True)[1]


def test_plan_and_measure_are_of_the_task_that_is_asked_for(run, small, tmp_path):
    width = 64
    balanced = json.loads(run("plan", *small, "--set", "task.weights=balanced", "--num-classes", "10", "--json"))
    assert balanced["parameters"]["head"] == 10 * (width + 1) and balanced["task"] == "classification"
    maps = ("--set", "task=segmentation", "--set", "task.decoder=upernet", "--num-classes", "10")
    maps = json.loads(run("plan", *small, *maps, "--json"))
    assert maps["parameters"]["head"] > 100_000 and (maps["task"], maps["num_classes"]) == ("segmentation", 10)
    told = run("plan", *small, "--task", "regression", "--num-classes", "1")
    assert told.startswith("dtl+ for regression on") and f"trained parameters + {width + 1} of the head" in told
    assert "choice of Classification 'decoder'" in run("plan", *small, "--set", "task.decoder=upernet", fails=True)[1]
    assert "at least 2 classes" in run("plan", *small, "--num-classes", "1", fails=True)[1]
    rows = ("--methods", "linear", "--set", "recipe.batch_size=4", "--json")
    asked = ("--task", "multilabel", "--set", "task.weights=balanced", "--num-classes", "3")
    (row,) = json.loads(run("measure", *small, *rows, *asked))
    assert row["parameters"]["head"] == 3 * (width + 1) and row["step_seconds"] > 0
    costs = json.loads((tmp_path / "measure-report/costs.json").read_text())
    assert (costs["task"], costs["num_classes"]) == ("multilabel", 3)


def test_a_budget_is_for_a_task_that_has_yet_to_see_its_images(run, folder, small):
    words = ("--out", "m", "--memory-budget", "1GiB", "--set", "task.weights=balanced")
    assert "at the peak" in run("fit", folder, *small, *QUICK, *words, said=True)


def test_a_task_that_is_not_known_says_how_ones_own_is(run, folder, small):
    for verb in (("fit", folder, "--set", "task=grades"), ("plan", "--task", "grades")):
        message = run(*verb, *small, fails=True)[1]
        assert "unknown task 'grades'; known: classification" in message and "sidetune --import MODULE VERB" in message


def test_the_order_of_classes_is_the_datas_and_words_may_be_set(run, folder, small, mine, tmp_path):
    message = run("fit", folder, *small, *QUICK, "--set", "task.classes=light,grey,dark", fails=True)[1]
    assert "classes and their order are those of the data" in message and "In Python any order" in message
    words = ("--task", "steps", "--set", "task.nicknames=a, b", "--out", "m")
    run(*mine, "fit", folder, *small, *QUICK, *words)
    assert json.loads((tmp_path / "m/sidetune.json").read_text())["task"]["nicknames"] == ["a", "b"]
    assert convert("names", "1,2", tuple[str, ...]) == ("1", "2") and convert("names", "a", tuple[str, ...]) == ("a",)
    with pytest.raises(ValueError, match="numbers must be numbers with commas between, got 'a,b'"):
        convert("numbers", "a,b", tuple[float, ...])
    with pytest.raises(ValueError, match="names must be a whole number or words with commas between"):
        convert("names", "none", int | tuple[str, str])


@pytest.mark.parametrize("refused", ["task.metric=acuracy", "task.nothing=1", "transform=scene"])
def test_what_is_refused_leaves_no_folder_and_takes_nothing_away(run, folder, small, tmp_path, refused):
    for verb in (("compare", folder), ("ablate", folder, "dtl+:rank=1")):
        assert run(*verb, *small, *QUICK, "--set", refused, "--out", "c", fails=True)
        assert not (tmp_path / "c").exists()
    run("ablate", folder, "dtl+:rank=1", *small, *QUICK, "--out", "c")
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir() if path.is_file()}
    run("ablate", folder, "dtl+:rank=1", *small, *QUICK, "--set", refused, "--out", "c", "--overwrite", fails=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir() if path.is_file()} == before


def test_only_what_was_refused_before_anything_was_found_is_forgotten(tmp_path):
    out = tmp_path / "c"
    with pytest.raises(ValueError, match="no"), output_folder(out, {"a": 1}):
        raise ValueError("no")
    assert not out.exists()
    with pytest.raises(KeyboardInterrupt), output_folder(out, {"a": 1}):
        raise KeyboardInterrupt
    assert (out / ANSWERS).exists(), "what was asked for is gone on with"
    with pytest.raises(ValueError, match="no"), output_folder(out, {}, resume=True) as memo:
        raise ValueError("no")
    assert memo.about == {"a": 1} and (out / ANSWERS).exists()
    with pytest.raises(ValueError, match="no"), output_folder(tmp_path / "d", {}) as memo:
        memo.put("question", 1)
        raise ValueError("no")
    assert (tmp_path / "d" / ANSWERS).exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="no"), output_folder(tmp_path / "mine", {}):
        raise ValueError("no")
    assert list((tmp_path / "mine").iterdir()) == [], "a folder that was there stays"
