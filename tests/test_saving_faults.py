"""Saved models and checkpoints on disks that fail, and what is kept with a model and used again."""

import errno
import os
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_backbone, tiny_network
from PIL import Image
from safetensors.torch import load_file, save_file

import sidetune
from sidetune.errors import CannotMerge, DataError, NoSpace, RunExists
from sidetune.merging import check_same
from sidetune.saved import mark
from sidetune.saving import found_again, method_from, place_of
from sidetune.sealed import Sealing
from sidetune.train.checkpoint import Checkpoint, RunFolder
from sidetune.train.epoch import Epoch

REQUEST = {"recipe": {"epochs": 3, "lr": 1e-3}, "backbone": {"digest": "d"}}


def model(seed=0):
    return sidetune.adapt(tiny_backbone("vit"), "linear", classes=("a", "b"), transform="vtab", seed=seed)


def content(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def test_weights_that_sidetune_did_not_write_are_not_written_over(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    before = content(tmp_path)
    with pytest.raises(RunExists, match="model.safetensors holds .*weights.* choose another folder"):
        model().save_pretrained(tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_model_is_whole_or_as_it_was(tmp_path, faulty_disk, call, error):
    model(1).save_pretrained(tmp_path)
    before = content(tmp_path)
    faulty_disk.fail(call, error)
    with pytest.raises(NoSpace, match="no space left on the disk of .*model.safetensors; .* untouched"):
        model(2).save_pretrained(tmp_path)
    assert content(tmp_path) == before


def test_weights_that_were_begun_are_not_seen_under_their_name(tmp_path, monkeypatch):
    """What a reader finds while new weights are written, and when writing them fails halfway."""
    model(1).save_pretrained(tmp_path)
    before, seen = (tmp_path / "model.safetensors").read_bytes(), []

    def torn(tensors, path, metadata=None):
        path.write_bytes(b"half")
        seen.append((tmp_path / "model.safetensors").read_bytes())
        raise RuntimeError("torn")

    monkeypatch.setattr("sidetune.saving.save_file", torn)
    with pytest.raises(RuntimeError, match="torn"):
        model(2).save_pretrained(tmp_path)
    assert seen == [before] == [(tmp_path / "model.safetensors").read_bytes()]
    assert sorted(os.listdir(tmp_path)) == ["README.md", "model.safetensors", "sidetune.json"]


def test_a_model_goes_on_normalising_as_it_was_trained(tmp_path):
    saved = model()
    saved.transform = sidetune.data.transforms.Transform(
        preset="vtab", image_size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0)
    )
    saved.save_pretrained(tmp_path)
    loaded = sidetune.load(tmp_path, backbone=tiny_backbone("vit"))
    seen = loaded.prepare(Image.new("RGB", (40, 30), (51, 102, 255)))
    expected = torch.tensor([(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (1.0 - 0.3) / 1.0])
    torch.testing.assert_close(seen, expected[:, None, None].expand(3, 32, 32))


def test_a_network_is_opened_as_the_one_that_was_saved_was(tmp_path):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.25, 0.6)
    opened = sidetune.open_backbone(tiny_network("vit"), mean=mean, std=std)
    sidetune.adapt(opened, "linear", num_classes=2).save_pretrained(tmp_path)
    card = sidetune.load(tmp_path, backbone=tiny_network("vit")).card
    assert card.mean == mean and card.std == std and card.image_size == (32, 32)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"head.weight": torch.zeros(2, 48)}, "model.safetensors is damaged or belongs to another model"),
        ({"head.weight": torch.zeros(3, 48), "head.bias": torch.zeros(3)}, "is damaged or belongs to another model"),
        ({"head.weight": torch.zeros(2, 48), "head.bias": torch.full((2,), torch.nan)}, "head.bias"),
    ],
)
def test_weights_of_another_model_are_told_as_such(tmp_path, tensors, message):
    model().save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", metadata=mark("adapter"))
    with pytest.raises(DataError, match=message):
        sidetune.load(tmp_path, backbone=tiny_backbone("vit"), force=True)


def test_logits_that_are_no_numbers_are_no_merged_network():
    class Plain(torch.nn.Linear):
        def forward(self, images):
            return self.value.expand(len(images), 2)

    adapted, plain = model(), Plain(1, 1)
    with torch.no_grad():
        right = adapted.eval()(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    plain.value = right
    check_same(adapted, plain)
    for wrong in (right + 1, right * torch.nan, right / 0):
        plain.value = wrong
        with pytest.raises(CannotMerge, match="gives other logits"):
            check_same(adapted, plain)


def progress(value, epochs=1):
    history = [Epoch(epoch=i + 1, lr=1e-3, loss=1.0, seconds=0.1) for i in range(epochs)]
    return Checkpoint(history=history, trained={"w": torch.full((3,), float(value))}, optimizer={}, scaler={})


def begun(out, **how):
    folder = RunFolder(out)
    return folder, folder.start(REQUEST, **{"resume": False, "overwrite": False, **how})


def test_room_for_a_checkpoint_is_three_times_the_trained_parameters(tmp_path, monkeypatch):
    folder, _ = begun(tmp_path)
    size = 3 * progress(1).trained["w"].nbytes
    real = shutil.disk_usage
    monkeypatch.setattr("sidetune.atomic.shutil.disk_usage", lambda _: SimpleNamespace(free=size - 1))
    with pytest.raises(NoSpace, match="checkpoint.pt needs 0 MiB"):
        folder.save(progress(1))
    rooms = iter([size])  # and as much as there is for the history
    monkeypatch.setattr(
        "sidetune.atomic.shutil.disk_usage", lambda at: SimpleNamespace(free=next(rooms, real(at).free))
    )
    folder.save(progress(1))
    assert torch.equal(folder.load().trained["w"], torch.ones(3))


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, faulty_disk, call, error):
    folder, _ = begun(tmp_path)
    folder.save(progress(1))
    faulty_disk.fail(call, error)
    with pytest.raises(NoSpace, match="no space left on the disk of .*checkpoint.pt"):
        folder.save(progress(2, epochs=2))
    faulty_disk.mend()
    _, kept = begun(tmp_path, resume=True)
    assert kept.trained["w"].tolist() == [1, 1, 1] and len(kept.history) == 1
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint.pt", "history.json", "run.json"]


@pytest.mark.parametrize("how, kept", [({"resume": True, "overwrite": True}, True), ({"overwrite": True}, False)])
def test_going_on_with_a_run_never_takes_it_away(tmp_path, how, kept):
    folder, _ = begun(tmp_path)
    folder.save(progress(7))
    _, found = begun(tmp_path, **how)
    assert (found is not None) == kept == (tmp_path / "run/checkpoint.pt").exists()
    assert (tmp_path / "run/run.json").exists()


def test_a_run_is_neither_begun_again_nor_gone_on_with_by_chance(tmp_path):
    begun(tmp_path)
    with pytest.raises(RunExists, match="already holds a run; go on with a run by --resume"):
        begun(tmp_path)
    other = {**REQUEST, "recipe": {"epochs": 3, "lr": 2e-3}}
    with pytest.raises(RunExists, match="a run with other choices: recipe.lr: 0.001 -> 0.002$"):
        RunFolder(tmp_path).start(other, resume=True, overwrite=False)


class Harmful:
    """What a pickle can do when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_runs_nothing_when_it_is_read(tmp_path):
    folder, _ = begun(tmp_path / "out")
    folder.save(progress(1))
    path, harm = tmp_path / "out/run/checkpoint.pt", tmp_path / "harm"
    with path.open("wb") as file:
        sealing = Sealing(file)
        torch.save({**vars(progress(1)), "optimizer": Harmful(harm), "history": []}, sealing)
        sealing.close()
    with pytest.raises(DataError, match="checkpoint.pt is damaged"):
        RunFolder(tmp_path / "out").start(REQUEST, resume=True, overwrite=False)
    assert not harm.exists()
    assert pickle.loads(pickle.dumps(Harmful(harm))) is None and harm.exists(), "it would have"


def test_other_processes_of_a_run_write_nothing(tmp_path):
    folder = RunFolder(tmp_path, writes=False)
    assert folder.start(REQUEST, resume=False, overwrite=True) is None
    folder.save(progress(1))
    assert os.listdir(tmp_path) == []


def test_what_is_saved_is_the_trained_part_and_says_whose_it_is(tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == {"head.weight", "head.bias"}
    assert torch.equal(found["head.weight"], saved.head.weight)


def test_a_backbones_file_is_found_where_it_was_or_beside_whoever_asks(tmp_path, monkeypatch):
    there = tmp_path / "weights.safetensors"
    there.write_bytes(b"")
    told = {"name": "weights.safetensors", "file": str(there)}
    monkeypatch.chdir(tmp_path)
    assert found_again(told, tmp_path) == "weights.safetensors"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert found_again(told, tmp_path) == str(there)
    assert found_again({"name": "vit_base_patch16_224"}, tmp_path) == "vit_base_patch16_224"
    there.unlink()
    with pytest.raises(
        FileNotFoundError, match="weights.safetensors, which is not there; say where it is by --backbone"
    ):
        found_again(told, tmp_path)


@pytest.mark.parametrize("module", ["sidetune.methods.lora", "sidetune.moved.lora", None])
def test_a_method_is_found_again_by_its_name_wherever_its_module_is_now(module):
    found = method_from({"type": "LoRA", "module": module, "rank": 5})
    assert type(found) is sidetune.methods.LoRA and found.rank == 5


def test_a_method_of_ones_own_is_not_taken_for_one_of_ours():
    with pytest.raises(ValueError, match="the method LoRA of the module mine.lora is not known; import what puts it"):
        method_from({"type": "LoRA", "module": "mine.lora"})


def test_where_a_weights_file_lies_is_told_and_names_have_no_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").touch()
    assert place_of("mine.safetensors") == {"file": str(tmp_path / "mine.safetensors")}
    assert place_of("gone.safetensors") == place_of("vit_tiny_patch16_224") == {}
