"""The command line, as a user meets it."""

import json
import math
import os
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sidetune.errors import Interrupted
from sidetune.outputs import check_replaceable, is_exported

ARCHITECTURE = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model(ARCHITECTURE, num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def network(weights):
    return ("--backbone", weights, "--set", f"architecture={ARCHITECTURE}", "--set", "image_size=32")


@pytest.fixture
def model(run, folder, network):
    run("fit", folder, *network, "--out", "model", "--epochs", "2", "--set", "recipe.batch_size=8")
    return "model"


def test_fit_evaluate_and_predict(run, folder, model):
    evaluated = json.loads(run("evaluate", model, "--json"))
    assert evaluated["num_images"] == 6 and 0 <= evaluated["accuracy"] <= 1
    assert json.loads(run("evaluate", model, folder / "val", "--json"))["num_images"] == 9
    assert json.loads(run("evaluate", model, folder, "--part", "train", "--json"))["num_images"] == 33
    picture = next((folder / "test/dark").iterdir())
    assert run("predict", model, picture).startswith(f"{picture}: ")
    rows = json.loads(run("predict", model, folder / "test", "--top", "3", "--json"))
    assert len(rows) == 6 and len(rows[0]["top"]) == 3


def test_fit_prints_json_for_machines_and_lines_for_logs(run, folder, network, capsys):
    result = json.loads(run("fit", folder, *network, "--epochs", "1", "--json"))
    assert result["out"] == "runs/squares-dtl+" and result["accuracy"].keys() == {"val", "test"}
    run("fit", folder, *network, "--epochs", "1", "--overwrite")


def test_one_folder_is_scored_on_the_part_that_was_held_out(run, folder, network):
    shutil.copytree(folder / "train", "one")
    run("fit", "one", *network, "--out", "model", "--epochs", "1")
    evaluated = json.loads(run("evaluate", "model", "one", "--json"))
    assert evaluated["num_images"] == 6 and evaluated["data"].endswith("(test)")


def test_a_run_is_neither_overwritten_nor_mixed_up(run, folder, network, model):
    again = ("fit", folder, *network, "--out", model, "--epochs", "2", "--set", "recipe.batch_size=8")
    assert run(*again, fails=True) == (
        2,
        "error: model already holds a run; go on with a run by --resume (resume=True), replace it by --overwrite "
        "(overwrite=True), or choose another folder\n",
    )
    assert "accuracy" in run(*again, "--resume")
    status, message = run(*again, "--resume", "--set", "method.rank=3", fails=True)
    assert status == 2 and "holds a run with other choices: method.rank: None -> 3" in message


def test_a_run_goes_on_with_its_own_choices(run, folder, network):
    chosen = ("--set", "method.rank=2", "--set", "transform=vtab", "--set", "recipe.batch_size=8", "--lr", "0.002")
    words = ("fit", folder, *network, "--method", "lora", "--epochs", "2", *chosen, "--out", "stopped")
    run(*words)
    whole = load_file("stopped/model.safetensors")
    asked = json.loads(Path("stopped/run/run.json").read_text())
    assert run("fit", "--out", "stopped", "--resume").endswith("try: sidetune predict stopped IMAGE\n")
    assert json.loads(Path("stopped/run/run.json").read_text()) == asked
    found = json.loads(run("fit", folder, "--out", "stopped", "--method", "lora", "--lr", "auto", "--resume", "--json"))
    assert found["epochs"] == 2 and found["model"]["method"]["rank"] == 2
    assert all(t.equal(whole[name]) for name, t in load_file("stopped/model.safetensors").items())
    for given, said in (
        (("--epochs", "3"), "recipe.epochs: 2 -> 3"),
        (("--set", "method.rank=4"), "method.rank: 2 -> 4"),
        (("--method", "dtl+"), "method.type: LoRA -> DTL"),
        (("--set", "transform=photo"), "transform.preset: vtab -> photo"),
    ):
        status, message = run("fit", "--out", "stopped", "--resume", *given, fails=True)
        assert status == 2 and "holds a run with other choices: " in message and said in message


def test_resuming_what_is_not_there_or_is_finished_is_said(run, folder, network):
    words = ("fit", folder, *network, "--method", "linear", "--epochs", "1", "--out", "new", "--resume")
    assert "nothing to resume in new; a run begins" in run(*words, said=True)
    assert "the run in new was finished; it is scored again" in run(*words, said=True)
    assert run("fit", "--resume", fails=True)[1].startswith("error: name the images to train on, or the --out folder")


def test_compare_writes_a_report(run, folder, network):
    words = ("compare", folder, *network, "--methods", "linear,dtl+", "--seeds", "2", "--epochs", "1")
    printed = run(*words, "--set", "transform=vtab", "--out", "report")
    assert "dtl+" in printed and "report in report/report.md" in printed
    status, message = run(*words, "--out", "report", fails=True)
    assert status == 2 and "already holds results; replace them by --overwrite, go on" in message
    for mine in ("notes.txt", "adapters/notes.txt", "adapters/dtl+/run/notes.txt", "results-mine.json"):
        Path("report", mine).write_text("mine")
    rows = json.loads(run(*words, "--out", "report", "--overwrite", "--json"))["rows"]
    assert [len(row["accuracies"]) for row in rows] == [2, 2]
    assert {p.read_text() for p in Path("report").rglob("*mine.json")} == {"mine"} and not Path("unfinished").exists()
    assert {p.read_text() for p in Path("report").rglob("notes.txt")} == {"mine"}
    assert len(list(Path("report").rglob("notes.txt"))) == 3


@pytest.mark.parametrize("name", ["report.md", "curves.png", "results.json", "adapters"])
def test_a_report_of_others_is_not_written_over(run, folder, network, name):
    Path("mine").mkdir()
    if name == "adapters":
        Path("mine", name).mkdir()
    else:
        Path("mine", name).write_text("mine")
    for words in ((), ("--overwrite",)):
        status, message = run("compare", folder, *network, "--methods", "linear", "--out", "mine", *words, fails=True)
        assert status == 2 and f"mine/{name} is in the way, and no report of sidetune's is there" in message
    assert [path.name for path in Path("mine").iterdir()] == [name]


def without_times(comparison):
    return [
        [row["method"], row["accuracies"], row["recipe"], row["peak_bytes"]]
        + [[{**epoch, "seconds": 0} for epoch in history] for history in row["histories"]]
        for row in comparison["rows"]
    ]


@pytest.mark.parametrize("verb", [("compare", "--methods", "linear,dtl+"), ("ablate", "dtl+:rank=1,2")])
def test_a_comparison_that_was_stopped_goes_on_and_trains_nothing_twice(run, folder, small, monkeypatch, verb):
    from sidetune.runs import carry_out as pipeline

    words = (verb[0], folder, *verb[1:], *small, "--seeds", "2", "--epochs", "2", "--set", "recipe.batch_size=8")
    whole = json.loads(run(*words, "--out", "whole", "--json"))
    evaluate, fit, trained = pipeline.evaluate, pipeline.fit, []

    def stopped(*args, **how):
        if len(trained) in (3, 6):
            raise Interrupted("stopped")
        return evaluate(*args, **how)

    def heard(model, *args, **how):
        done = fit(model, *args, **how)
        trained.append(len(done.history) - done.num_found)
        return done

    monkeypatch.setattr(pipeline, "fit", heard)
    monkeypatch.setattr(pipeline, "evaluate", stopped)
    assert run(*words, "--out", "part", fails=True)[0] == 130
    monkeypatch.setattr(pipeline, "evaluate", evaluate)
    gone_on = json.loads(run(verb[0], "--resume", "--out", "part", "--json"))
    assert trained == [2, 2, 2, 0, 2] and without_times(gone_on) == without_times(whole)
    again = json.loads(run(verb[0], "--resume", "--out", "part", "--json"))
    assert len(trained) == 5 and again["rows"] == gone_on["rows"] and not Path("part/unfinished").exists()
    if verb[0] == "compare":
        for name in ("linear", "dtl+"):
            ours, theirs = (load_file(f"{out}/adapters/{name}/model.safetensors") for out in ("part", "whole"))
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    monkeypatch.setattr(pipeline, "evaluate", stopped)
    status, said = run(*words, "--resume", "--out", "new", fails=True)
    assert status == 130 and "nothing to resume in new" in said


def test_ablate_draws_variants_side_by_side(run, folder, network):
    quick = (*network, "--epochs", "1", "--set", "recipe.batch_size=8", "--json")
    rows = json.loads(run("ablate", folder, "dtl+:rank=1,2", *quick))["rows"]
    assert [row["method"] for row in rows] == ["1", "2"]
    trainable = [row["parameters"]["trainable"] for row in rows]
    assert trainable[1] - trainable[0] == 12 * 2 * 192
    studied = json.loads(run("ablate", folder, "mist-components", *quick, "--out", "study"))
    assert [row["method"] for row in studied["rows"]] == ["linear", "gather", "LAE", "gather + LAE"]
    with Image.open("study/study.png") as picture:
        assert picture.size[0] > 500
    assert "ablate-squares-dtl+-rank" in {p.name for p in folder.parent.iterdir()}


@pytest.mark.parametrize("verb", [("ablate", "dtl+:rank=1,2"), ("compare", "--methods", "linear,dtl+")])
def test_learning_rates_are_chosen_for_each_or_given_for_all(run, folder, small, verb):
    words = (
        verb[0],
        folder,
        *verb[1:],
        *small,
        "--epochs",
        "1",
        "--set",
        "recipe.batch_size=8",
        "--overwrite",
        "--json",
    )
    rows = json.loads(run(*words, "--lr", "auto"))["rows"]
    own = {"linear": 0.03, "dtl+": 0.005, "1": 0.005, "2": 0.005}
    for row in rows:
        times = row["recipe"]["lr"] / own.get(row["method"], 0.001)
        assert math.log2(times) == pytest.approx(round(math.log2(times))), "the method's own, doubled or halved"
    assert {row["recipe"]["lr"] for row in json.loads(run(*words, "--lr", "0.002"))["rows"]} == {0.002}


def test_export_and_merge(run, folder, network, model):
    assert "its logits differ by at most" in run("export", model, "model.onnx")
    assert onnxruntime.InferenceSession("model.onnx").get_inputs()[0].shape[1:] == [3, 32, 32]
    status, message = run("merge", model, "merged.safetensors", fails=True)
    assert status == 2 and "cannot be folded" in message
    run("fit", folder, *network, "--method", "lora", "--out", "lora", "--epochs", "1")
    printed = run("merge", "lora", "merged.safetensors")
    network = eval(printed.splitlines()[1].strip(), {"timm": timm})
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    again = eval(run("merge", "lora", "it's.pth").splitlines()[1].strip(), {"timm": timm})
    assert torch.equal(again.state_dict()["head.weight"], network.state_dict()["head.weight"])
    assert zipfile.is_zipfile("it's.pth"), "what the ending says"
    run("merge", "lora", "it's.pth")  # our own are made anew
    run("merge", "lora", "merged.safetensors")
    check_replaceable(Path("model.onnx"), is_exported)
    for name in ("mine.safetensors", "mine.pth", "mine.onnx", "lora/model.safetensors"):
        if not (mine := Path(name)).exists():
            mine.write_bytes(b"mine")
        before = mine.read_bytes()
        verb = ("export", model) if name.endswith(".onnx") else ("merge", "lora")
        status, message = run(*verb, name, fails=True)
        assert status == 2 and f"{name} is there already, and not from this command" in message.replace("\n", " ")
        assert mine.read_bytes() == before
    for name in ("merged", "merged.onnx"):
        assert "ends in .safetensors, .pth, .pt, .bin, got merged" in run("merge", "lora", name, fails=True)[1]


def test_scores_tell_classes_apart(run, folder, model):
    result = json.loads(Path(model, "run/result.json").read_text())
    score = result["scores"]["test"]
    recalls = score["recall"]
    assert set(recalls) == {"dark", "grey", "light"} and score["accuracy"] == result["accuracy"]["test"]
    assert score["balanced_accuracy"] == pytest.approx(sum(recalls.values()) / 3)
    told = json.loads(run("evaluate", model, "--json"))
    assert {name: told[name] for name in score} == score
    assert f", balanced {100 * score['balanced_accuracy']:.2f} %" in run("evaluate", model)


def test_a_weights_file_that_moved_is_found_or_asked_for(run, folder, network):
    place = Path(shutil.copy(network[1], "here.safetensors")).resolve()
    run("fit", folder, "--backbone", "here.safetensors", *network[2:], "--epochs", "1", "--out", "relative")
    picture = next((folder / "test/grey").iterdir())
    os.chdir("relative")
    assert "%" in run("predict", ".", picture)
    os.chdir("..")
    place.rename("elsewhere.safetensors")
    status, message = run("predict", "relative", picture, fails=True)
    assert status == 2 and f"{place}, which is not there; say where it is by --backbone FILE" in message
    assert "%" in run("predict", "relative", picture, "--backbone", "elsewhere.safetensors")


def test_what_extract_says_to_do_next_trains_from_the_store(run, folder, network):
    printed = run(
        "extract", folder, "--store", "my store", *network, "--methods", "dtl+, linear", "--set", "transform=vtab"
    )
    commands = [line.removeprefix("train from them: ") for line in printed.splitlines() if "train from" in line]
    assert len(commands) == 2
    before = sorted(Path("my store").rglob("*"))
    for number, command in enumerate(commands):
        words = shlex.split(command)
        assert words[0] == "sidetune"
        run(*words[1:], "--epochs", "1", "--out", f"stored {number}")
    assert sorted(Path("my store").rglob("*")) == before, "nothing had to be computed again"


def test_a_picture_that_vanishes_while_training_is_named_without_a_traceback(run, folder, network, monkeypatch):
    def lose_one(model, train, seed):
        train.samples.images[3].unlink()

    monkeypatch.setattr("sidetune.train.loop.begin", lose_one)
    words = ("fit", folder, *network, "--epochs", "1", "--set", "recipe.features=off", "--set", "recipe.num_workers=1")
    status, printed = run(*words, fails=True)
    assert status == 2 and printed.splitlines()[-1].startswith("error: no image at ") and "worker" not in printed


def test_names_of_files_that_are_no_utf8_are_printed(run, folder, model):
    odd = folder / "test/grey/caf\udce9.png"
    shutil.copy(next((folder / "test/grey").iterdir()), odd)
    assert "caf\\xe9.png: " in run("predict", model, folder / "test")
    assert any("caf\\xe9.png" in row["image"] for row in json.loads(run("predict", model, folder / "test", "--json")))


def test_mistyped_names_are_told_before_anything_is_read(run, folder, network, monkeypatch):
    def read(*_, **__):
        raise AssertionError("the data were read")

    monkeypatch.setattr("sidetune.data.sources.read_data", read)
    other = ("--backbone", "vit_tiny_patch16_224.augreg_in21")
    for words, message in (
        (("fit", folder, *other), "Near: vit_tiny_patch16_224.augreg_in21k"),
        (("compare", folder, *other), "unknown backbone"),
        (("compare", folder, *network, "--methods", "linear, bitft"), "did you mean bitfit"),
        (("extract", folder, "--store", "s", *network, "--methods", "dlt+"), "did you mean dtl+"),
        (("ablate", folder, "dtl-rnk", *network), "did you mean dtl-rank"),
        (("ablate", folder, "dtl+:rank=1", *other), "unknown backbone"),
        (("search", folder, "--max-parameters", "9", *other), "unknown backbone"),
        (("fit", folder, *network, "--set", "transform=vtb"), "did you mean vtab"),
        (("fit", folder, "--backbone", "none.pth"), "no weights file at none.pth"),
        (("fit", folder, "--backbone", network[1]), "does not say which network it fits"),
        (
            ("fit", folder, "--backbone", network[1], "--set", "architecture=vit_tiny_patch16_244"),
            "vit_tiny_patch16_224",
        ),
    ):
        status, printed = run(*words, fails=True)
        assert status == 2 and message in printed, printed


def test_methods_and_recipes(run):
    assert "vpt-deep on resnet: prompts are extra tokens" in run("methods")
    assert json.loads(run("methods", "--json"))["lora"]["vit"] is None
    assert "lr 0.003, drop path 0, kernel 5" in run("recipes", "vtab/cifar_100/swin/dtl+")
    assert (
        len(json.loads(run("recipes", "/vit/", "--json"))) + len(json.loads(run("recipes", "/swin/", "--json"))) == 136
    )
    assert json.loads(run("recipes", "noah", "--json"))["noah"]["forms"] == {"lora": "lora-fused"}
    assert "fact/dtd: vit_base_patch16_224.orig_in21k, vtab, lr 0.001, drop path 0.1, fact-tt rank 8" in run("recipes")


def test_a_papers_convention_is_followed_and_stored(run, folder, network):
    quick = ("--epochs", "2", "--set", "recipe.batch_size=8")
    run("fit", folder, *network, "--recipe", "noah", "--method", "lora", *quick, "--out", "model")
    result = json.loads(Path("model/run/result.json").read_text())
    assert result["named_recipe"] == "noah"
    assert result["model"]["method"]["fused"] is True and result["model"]["method"]["pool"] == "token"
    assert result["model"]["recipe"]["weight_decay"] == 1e-4 and result["model"]["transform"]["preset"] == "vtab"
    assert result["model"]["backbone"]["mean"] == [0.485, 0.456, 0.406]
    run("compare", folder, *network, "--recipe", "dtl-aaai24", "--methods", "linear,dtl", *quick, "--out", "report")
    result = json.loads(Path("report/results-squares.json").read_text())
    assert result["named_recipe"] == "dtl-aaai24" and result["mean"] == [0.5, 0.5, 0.5]
    words = ("compare", folder, *network, "--recipe", "noah", "--methods", "lora,vpt-deep")
    assert "noah normalises pixels otherwise for some of" in run(*words, fails=True)[1]


def test_sizes_are_searched_for_and_the_best_are_trained(run, folder, network):
    words = ("--max-parameters", "30000", "--generations", "2", "--population", "4", "--epochs", "1", "--out", "found")
    found = json.loads(run("search", folder, *network, *words, "--set", "method.sizes=1,5", "--json"))
    assert found == json.loads(Path("found/search.json").read_text())
    assert found["num_parameters"] <= 30_000 and 4 <= len(found["scored"]) <= 8
    assert found["num_images"] == {"train": 33, "val": 9} and "commit" in found
    fit = found["train_it"][1:]
    done = json.loads(run(*fit, "--epochs", "1", "--out", "model", "--json"))
    assert done["parameters"]["trainable"] == found["num_parameters"]
    assert {kind: done["model"]["method"][kind] for kind in found["subnet"]} == found["subnet"]
    status, message = run("search", folder, *network, *words, fails=True)
    assert status == 2 and "found already holds results; replace them by --overwrite" in message


def test_bad_images_are_named_and_skipped_on_request(run, folder, network, model):
    bad = folder / "test/dark/bad one.jpg"
    bad.write_bytes(b"\xff\xd8\xff junk")
    status, message = run("fit", folder, *network, "--out", "other", "--epochs", "1", fails=True)
    assert status == 2 and "bad one.jpg" in message and "--skip-bad" in message
    assert "accuracy" in run("fit", folder, *network, "--out", "other", "--epochs", "1", "--skip-bad")
    assert "bad one.jpg" in run("predict", model, bad, fails=True)[1]
    assert len(json.loads(run("predict", model, folder / "test", "--skip-bad", "--json"))) == 6


def test_ctrl_c_says_how_to_go_on(run, folder, network, monkeypatch):
    from sidetune.train.loop import Training

    train = Training.train_epoch

    def interrupted(self, model, batches, number):
        if number == 1:
            raise KeyboardInterrupt
        return train(self, model, batches, number)

    monkeypatch.setattr(Training, "train_epoch", interrupted)
    words = ("fit", folder, *network, "--out", "model", "--epochs", "2")
    status, message = run(*words, fails=True)
    assert status == 130 and "go on with --resume" in message
    assert "unfinished run" in run("predict", "model", folder / "test", fails=True)[1]
    monkeypatch.setattr(Training, "train_epoch", train)
    assert "accuracy" in run(*words, "--resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ablate", "fashion-1k", "dtl-ranks"), "unknown study 'dtl-ranks'; did you mean dtl-rank"),
        (("ablate", "fashion-1k", "dtl+:rank"), "a study of your own is METHOD:CHOICE=VALUE"),
        (("fit", "nowhere"), "no folder at nowhere, and no data set of that name; known names: fashion-1k"),
        (("fit", "fashion-1k", "--method", "dlt"), "unknown method 'dlt'; did you mean lst or dtl? Known: linear"),
        (("fit", "fashion-1k", "--set", "method.rank=0"), "rank must be at least 1, got 0"),
        (("fit", "fashion-1k", "--set", "method.rank=four"), "rank must be a whole number or none, got 'four'"),
        (
            ("fit", "fashion-1k", "--set", "method.rnk=4"),
            "unknown choice of DTL 'rnk'; did you mean rank",
        ),
        (("fit", "fashion-1k", "--set", "recipe.epochs=1.5"), "epochs must be a whole number, got '1.5'"),
        (("fit", "fashion-1k", "--set", "rank"), "--set takes method.NAME=VALUE"),
        (("fit", "fashion-1k", "--set", "size=3"), "unknown choice of Setup 'size'; known: image_size"),
        (("fit", "fashion-1k", "--epochs", "0"), "epochs must be at least 1, got 0"),
        (
            ("fit", "fashion-1k", "--recipe", "vtab/cifar"),
            "unknown recipe 'vtab/cifar'; did you mean vtab/",
        ),
        (("fit", "fashion-1k", "--backbone", "resnet5O"), "unknown backbone 'resnet5O'"),
        (("fit", "fashion-1k", "--backbone", "resnet50"), "could not be fetched"),
        (("predict", "nowhere", "x.jpg"), "nowhere holds no saved model"),
        (("compare", "fashion-1k", "--methods", "linear,foo"), "unknown method 'foo'"),
        (("compare", "fashion-1k", "--set", "method.rank=3"), "register a preset of your own"),
    ],
)
def test_wrong_input_is_one_clear_message(run, words, message):
    status, printed = run(*words, fails=True)
    assert status == 2 and message in printed and "Traceback" not in printed


def test_images_that_are_no_squares_and_many_kinds_at_once(run, folder, network, model):
    Image.new("RGBA", (300, 20), (1, 2, 3, 99)).save("wide.png")
    Image.fromarray(np.full((40, 9), 40000, np.uint16)).save("sixteen.png")
    Image.new("CMYK", (64, 64)).save("ink.jpg")
    assert len(run("predict", model, "wide.png", "sixteen.png", "ink.jpg").splitlines()) == 3


def test_plan_tells_before_anything_runs(run, network):
    shown = run("plan", *network, "--memory-budget", "20 MiB")
    assert "7 of 12 blocks frozen" in shown and "activations" in shown and "within 20 MiB: " in shown
    told = json.loads(run("plan", *network, "--images", "10", "--json"))
    assert told["peak_bytes"] == sum(told["memory"].values()) and told["store_bytes"] == 10 * told["features_bytes"]
    assert "such as 2GiB" in run("plan", *network, "--memory-budget", "plenty", fails=True)[1]


def test_a_budget_is_kept_and_said(run, folder, network, capsys):
    run("fit", folder, *network, "--epochs", "1", "--memory-budget", "14MiB")
    capsys.readouterr()
    means = json.loads((folder.parent / "runs/squares-dtl+/run/run.json").read_text())["about"]["means"]
    assert means["micro_batch"] or means["checkpoint"]
    result = json.loads((folder.parent / "runs/squares-dtl+/run/result.json").read_text())
    assert result["means"] == means and "micro_batch" not in result["run"]["recipe"]


def test_features_are_extracted_once_and_found_by_fit(run, folder, network, monkeypatch):
    plain = (*network, "--set", "transform=vtab")
    parts = json.loads(run("extract", folder, "--store", "kept", *plain, "--methods", "dtl+,linear", "--json"))
    assert parts.keys() == {"train", "val", "test"} and all(part["bytes"] for part in parts.values())
    folders = sorted(path.name for path in (folder.parent / "kept").iterdir())
    monkeypatch.setattr("sidetune.store.disk.write_shard", None)  # nothing is left to be written
    for method in ("dtl+", "linear"):
        run("fit", folder, *plain, "--method", method, "--epochs", "1", "--store", "kept")
    assert sorted(path.name for path in (folder.parent / "kept").iterdir()) == folders
    assert "keep several views" in run("extract", folder, "--store", "kept", *network, fails=True)[1]
    assert (
        "no block is frozen under full"
        in run("extract", folder, "--store", "k", *plain, "--methods", "full", fails=True)[1]
    )


def test_views_of_augmented_images_are_kept(run, folder, network):
    run("fit", folder, *network, "--epochs", "2", "--store", "kept", "--views", "2", "--out", "first")
    run("fit", folder, *network, "--epochs", "2", "--store", "kept", "--views", "2", "--out", "second")
    first, second = ((folder.parent / out / "model.safetensors").read_bytes() for out in ("first", "second"))
    assert first == second


def test_what_is_left_open_is_tried_on_validation_images(run, folder, network, capsys):
    plain = (*network, "--set", "transform=vtab", "--epochs", "2", "--set", "recipe.batch_size=8")
    result = json.loads(run("fit", folder, *plain, "--lr", "auto", "--set", "method.first_write=auto", "--json"))
    saved = json.loads((folder.parent / result["out"] / "sidetune.json").read_text())
    assert saved["recipe"]["lr"] in (2.5e-3, 5e-3, 1e-2, 2e-2) and saved["method"]["first_write"] in (4, 7, 10)
    shutil.rmtree(folder / "val")  # then a part of the training images stands in
    run("fit", folder, *plain, "--lr", "auto", "--method", "linear")
    refused = run("fit", folder, *plain, "--method", "lora", "--set", "method.first_write=auto", fails=True)[1]
    assert "LoRA leaves nothing to validation images, not first_write; give its value" in refused
    chosen = json.loads(run("fit", folder, *plain, "--method", "mist", "--k", "auto", "--json"))["model"]["method"]["k"]
    assert chosen in (3, 6, 8, 10, 12)
    run("fit", folder, *plain, "--method", "linear", "--lr", "0.5", "--out", "fixed")
    assert json.loads((folder.parent / "fixed/sidetune.json").read_text())["recipe"]["lr"] == 0.5


def test_measure_shows_what_methods_take(run, network, tmp_path):
    shown = run("measure", *network, "--methods", "linear,dtl+", "--set", "recipe.batch_size=4")
    assert (
        "numbers in measure-report/costs.json" in shown
        and (tmp_path / "measure-report/memory.png").stat().st_size > 5000
    )
    told = json.loads((tmp_path / "measure-report/costs.json").read_text())
    assert told["versions"] and all(row["step_seconds"] > 0 for row in told["rows"])
    sweep = ("--methods", "dtl", "--sweep", "first_write=1,7,12", "--no-time", "--json")
    rows = json.loads(run("measure", *network, *sweep))
    assert [row["frozen_depth"] for row in rows] == [1, 7, 12]
    activations = [row["memory"]["activations"] for row in rows]
    assert activations == sorted(activations, reverse=True) and rows[0]["step_seconds"] is None
    assert "--sweep takes NAME=VALUE" in run("measure", *network, "--sweep", "rank", fails=True)[1]
