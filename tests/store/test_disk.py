"""Features on disk: exact, found again only for what they were made of, whole or not there."""

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import sidetune
from sidetune.data.dataset import ImageDataset
from sidetune.errors import NoSpace
from sidetune.recipe import Recipe
from sidetune.seam.features import Features
from sidetune.seam.taps import Need, block_input, block_output
from sidetune.store import disk
from sidetune.store.codec import decode, encode
from sidetune.store.disk import Origin, fill
from sidetune.store.memory import as_they_are
from sidetune.train.loop import fit

NEED = Need({block_input(1), block_input(2), block_output(2)})
ORIGIN = Origin(
    weights="w",
    image_size=(4, 4),
    preprocessing="p",
    images="i",
    need=NEED,
    dtype="float32",
    codec="same",
    num_images=10,
    views=0,
    seed=0,
)
THREE_IMAGES = 3 * 3 * 5 * 48 * 4  # bytes: three taps of five tokens


class Noise(torch.utils.data.Dataset):
    """Images whose number can be read off them."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.full((3, 4, 4), float(index)), index % 3


class Compute:
    """A pretended prefix that counts the images it saw."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        tap = images.flatten(1).unsqueeze(1).repeat(1, 5, 1)
        return Features({block_input(1): tap, block_input(2): tap + 1, block_output(2): tap * 2})


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(disk, "SHARD_BYTES", THREE_IMAGES)


def made(root, compute=None, origin=ORIGIN):
    labels = torch.arange(origin.num_images) % 3
    return fill(root, origin, Noise(), labels, ("a", "b", "c"), compute or Compute())


def expected(items):
    return Compute()(torch.stack([Noise()[i][0] for i in items])).tensors()


def test_what_is_read_is_what_was_computed_in_any_order(tmp_path):
    store = made(tmp_path)
    assert len(store) == 10 and len(list(store.folder.glob("shard-*"))) == 4
    order = [7, 0, 9, 3, 3]
    features, labels = store.__getitems__(order)
    assert all(map(torch.equal, features.tensors(), expected(order)))
    assert labels.tolist() == [1, 0, 0, 0, 0] and store[4][1] == 1


def test_nothing_is_computed_twice_and_only_damaged_shards_again(tmp_path):
    made(tmp_path)
    again = Compute()
    store = made(tmp_path, again)
    asked_for_its_size = 1
    assert again.seen == asked_for_its_size
    shards = sorted(store.folder.glob("shard-*"))
    flipped = bytearray(shards[1].read_bytes())
    flipped[-5] ^= 1
    shards[1].write_bytes(flipped)
    shards[3].write_bytes(shards[3].read_bytes()[:-20])
    mended = Compute()
    made(tmp_path, mended)
    assert mended.seen == asked_for_its_size + 3 + 1


def test_exchanged_shards_are_computed_again(tmp_path):
    first, other = made(tmp_path).folder, made(tmp_path, origin=replace(ORIGIN, seed=1, views=1)).folder
    shards = sorted(first.glob("shard-*"))
    whole = [shard.read_bytes() for shard in shards]
    shards[0].write_bytes(whole[1])
    shards[1].write_bytes((other / shards[1].name).read_bytes())
    shards[3].write_bytes(whole[2])
    mended = Compute()
    made(tmp_path, mended)
    assert mended.seen == 1 + 3 + 3 + 1
    assert [shard.read_bytes() for shard in shards] == whole


def test_a_description_that_was_altered_is_not_believed(tmp_path):
    described = made(tmp_path).folder / "store.json"
    less, text = replace(ORIGIN, need=Need({block_output(2)})), described.read_text()
    for told in (text.replace('"per_shard": 3', '"per_shard": 5'), text.replace('"per_shard": 3', '"per_shard": 0')):
        assert told != text
        described.write_text(told)
        assert disk.finished(tmp_path, less) is None
        described.write_text(told.replace('"format": 2', '"format": 1'))
        assert disk.finished(tmp_path, less) is None
    described.write_text(text)
    assert disk.finished(tmp_path, less) is not None


@pytest.mark.parametrize(
    "change", [{"weights": "x"}, {"preprocessing": "x"}, {"images": "x"}, {"codec": "fp16"}, {"dtype": "bfloat16"}]
)
def test_a_store_of_anything_else_is_not_used(tmp_path, change):
    made(tmp_path)
    compute = Compute()
    other = made(tmp_path, compute, replace(ORIGIN, **change))
    assert compute.seen > 10 and other.folder != made(tmp_path).folder


def test_a_finished_store_serves_tasks_that_need_less(tmp_path):
    wide, less = made(tmp_path), replace(ORIGIN, need=Need({block_output(2)}))
    compute = Compute()
    narrow = made(tmp_path, compute, less)
    assert narrow.folder == wide.folder and compute.seen == 0
    assert [name for name, _ in narrow[0][0].named()] == ["output.2"]
    next(wide.folder.glob("shard-*")).unlink()
    made(tmp_path, compute, less)
    assert compute.seen > 10, "an unfinished one does not"


def test_a_store_of_one_image_a_shard_serves_too(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SHARD_BYTES", 1)
    wide, compute = made(tmp_path), Compute()
    assert len(list(wide.folder.glob("shard-*"))) == 10
    assert made(tmp_path, compute, replace(ORIGIN, need=Need({block_output(2)}))).folder == wide.folder
    assert compute.seen == 0


@pytest.mark.parametrize("told", ["{", "[]", "{}", '{"need": 3, "format": 2, "per_shard": 1}'])
def test_a_description_that_cannot_be_read_is_passed_over(tmp_path, told):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/store.json").write_text(told)
    assert disk.finished(tmp_path, ORIGIN) is None
    assert made(tmp_path)[3][1] == 0


def test_a_full_disk_is_foreseen_before_anything_is_written(tmp_path, monkeypatch):
    class Usage:
        free = 10_000

    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(NoSpace, match="the features need 0.00 GiB in"):
        made(tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_several_at_once_do_no_damage(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: made(tmp_path), range(4)))
    for store in stores:
        features, _ = store.__getitems__(list(range(10)))
        assert all(map(torch.equal, features.tensors(), expected(range(10))))
    assert not list(stores[0].folder.glob(".*"))


KILLED = """
import sys
sys.path[:0] = {paths!r}
import test_disk
from pathlib import Path

class Stuck(test_disk.Compute):
    def __call__(self, images):
        if self.seen >= 1 + 3 + 3:  # one to learn its size, and two shards
            print("stuck", flush=True)
            sys.stdin.read()
        return super().__call__(images)

test_disk.disk.SHARD_BYTES = test_disk.THREE_IMAGES
test_disk.made(Path({root!r}), Stuck())
"""


def test_a_killed_extraction_loses_at_most_the_shard_being_written(tmp_path, monkeypatch):
    script = KILLED.format(paths=[os.path.dirname(__file__)], root=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"stuck\n"
        process.kill()
    whole = sorted(tmp_path.glob("*/shard-*"))
    assert len(whole) == 2
    left = whole[0].parent / f".shard-00003.safetensors.{platform.node()}~{process.pid}~1"
    left.mkdir()
    (left / ".tmp123456").write_bytes(b"half")
    counted = []
    monkeypatch.setattr(disk, "foresee_space", lambda root, num_bytes: counted.append(left.exists()))
    compute = Compute()
    store = made(tmp_path, compute)
    assert compute.seen == 1 + 4 and counted == [False]
    assert store[9][0][block_output(2)].max() == 18


def test_codecs_keep_what_they_promise():
    t = torch.randn(4, 7, 24) * torch.logspace(-2, 2, 7)[:, None]
    assert torch.equal(decode(encode(t, "same", -1), t.dtype), t)
    eight = encode(t, "int8", -1)
    assert sum(p.nbytes for p in eight.values()) < 0.3 * t.nbytes
    worst = (decode(eight, t.dtype) - t).abs().amax(-1) / t.abs().amax(-1)
    assert worst.max() <= 0.5 / 127 + 1e-6, "every token has a scale of its own"
    maps = t[0].T.reshape(1, 24, 7, 1)
    assert encode(maps, "int8", 1)[".scale"].shape == (1, 1, 7, 1)
    assert torch.equal(decode(encode(torch.zeros(1, 2, 3), "int8", -1), t.dtype), torch.zeros(1, 2, 3))


@pytest.mark.parametrize("method", ["linear", "dtl+", "partial"])
def test_training_from_a_store_is_training_on_the_fly(vit, samples, tmp_path, method):
    recipe = Recipe(epochs=2, batch_size=8, precision="fp32")

    def trained(recipe=recipe, **how):
        model = sidetune.adapt(vit, method, classes=samples.classes, transform="vtab")
        return model, fit(model, samples, recipe=recipe, **how)

    flying, done = trained(replace(recipe, features="off"))
    stored, from_store = trained(store=tmp_path)
    again, _ = trained(store=tmp_path)
    assert from_store.features_kept and not done.features_kept
    assert all(map(torch.equal, stored.trained().values(), again.trained().values()))
    images = torch.randn(4, 3, 32, 32)
    assert torch.allclose(stored(images), flying(images), rtol=1e-4, atol=1e-5)


def test_views_are_the_same_whenever_asked_and_taken_in_turn(vit, samples, tmp_path):
    def losses(where):
        model = sidetune.adapt(vit, "dtl", classes=samples.classes, transform="photo")
        recipe = Recipe(epochs=4, batch_size=8, views=2, precision="fp32", lr=1e-9)
        return [e.loss for e in fit(model, samples, recipe=recipe, store=where).history]

    stored = losses(tmp_path)
    assert stored == pytest.approx(losses(None), rel=1e-5), "in memory they are the same"
    assert stored == losses(tmp_path)
    assert abs(stored[0] - stored[2]) < 0.2 * abs(stored[0] - stored[1]), "the third epoch sees the first view again"
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "store.json").read_text())["views"] == 2


def test_what_cannot_be_stored_is_refused_with_what_to_do(vit, samples, tmp_path):
    def start(method="dtl", transform="vtab", data=samples):
        model = sidetune.adapt(vit, method, classes=samples.classes, transform=transform)
        fit(model, data, recipe=Recipe(epochs=1), store=tmp_path)

    with pytest.raises(ValueError, match="augmented at random.*views=4"):
        start(transform="photo")
    with pytest.raises(ValueError, match="no block of this model is frozen"):
        start(method="full")
    photos = sidetune.adapt(vit, "dtl", classes=samples.classes, transform="photo")
    with pytest.raises(ValueError, match="2 views need 0.0 GiB, above features_limit; keep them on disk"):
        fit(photos, samples, recipe=Recipe(epochs=1, views=2, features_limit=1000))
    pictures = ImageDataset(samples, lambda image: image, is_random=False)
    with pytest.raises(ValueError, match="must know images again, which a Prepared does not tell"):
        start(data=pictures)


def test_a_store_can_be_read_by_worker_processes(tmp_path):
    store = made(tmp_path)
    store[0]
    loader = torch.utils.data.DataLoader(store, batch_size=5, num_workers=1, collate_fn=as_they_are)
    assert [labels.tolist() for _, labels in loader] == [[0, 1, 2, 0, 1], [2, 0, 1, 2, 0]]


def test_space_that_just_suffices_does_and_folders_on_the_way_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    disk.foresee_space(tmp_path / "a/b", 100)
    assert (tmp_path / "a/b").is_dir()
    with pytest.raises(NoSpace, match="a store elsewhere"):
        disk.foresee_space(tmp_path / "a/b", 101)
