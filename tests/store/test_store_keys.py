"""What decides a store's name, who fills which shard, and what a disk that fails leaves of it."""

import dataclasses
import errno
import hashlib
import os
import pickle
from dataclasses import replace

import pytest
import test_disk
import torch
from test_disk import NEED, ORIGIN, Compute, made

from sidetune.errors import NoSpace
from sidetune.seam.features import Features
from sidetune.seam.taps import Need, block_output, pooled
from sidetune.store import disk
from sidetune.store.disk import fill, write_shard

small_shards = test_disk.small_shards  # the fixture, here too

OTHER = {
    "weights": "x",
    "image_size": (4, 5),
    "preprocessing": "x",
    "images": "x",
    "need": Need({block_output(2)}),
    "dtype": "bfloat16",
    "codec": "fp16",
    "num_images": 9,
    "views": 1,
    "seed": 1,
}


def test_every_field_of_an_origin_decides_the_name_of_its_folder():
    assert OTHER.keys() == {f.name for f in dataclasses.fields(ORIGIN)}, "a field that this test does not know"
    for version in (1, 2):
        keys = {name: replace(ORIGIN, **{name: value}).key(version) for name, value in OTHER.items()}
        assert len({ORIGIN.key(version), *keys.values()}) == len(OTHER) + 1
    assert ORIGIN.key(1) != ORIGIN.key(2) and replace(ORIGIN).key() == ORIGIN.key()
    assert replace(ORIGIN, need=Need(sorted(NEED, key=str, reverse=True))).key() == ORIGIN.key()


def test_a_folders_name_is_the_digest_of_its_description_in_the_order_of_names():
    """So that stores of earlier days are found."""
    described = (
        '{"codec": "same", "dtype": "float32", "format": 2, "image_size": [4, 4], "images": "i", '
        '"need": ["input.1", "input.2", "output.2"], "num_images": 10, "preprocessing": "p", "seed": 0, "views": 0, '
        '"weights": "w"}'
    )
    assert ORIGIN.key() == hashlib.sha256(described.encode()).hexdigest()[:24]


@pytest.mark.parametrize("name", sorted(set(OTHER) - {"need"}))
def test_a_wider_store_serves_only_what_it_has_the_same_origin_of(tmp_path, name):
    made(tmp_path)
    less = replace(ORIGIN, need=Need({block_output(2)}))
    assert disk.finished(tmp_path, less) is not None
    assert disk.finished(tmp_path, replace(less, **{name: OTHER[name]})) is None


def test_a_store_moved_under_anothers_name_serves_nobody(tmp_path):
    less = replace(ORIGIN, need=Need({block_output(2)}))
    made(tmp_path).folder.rename(tmp_path / "0123456789abcdef01234567")
    assert disk.finished(tmp_path, less) is None


def test_workers_are_sent_no_features(tmp_path):
    store = made(tmp_path)
    store.__getitems__([0, 5, 9])
    assert sorted(store._shards) == [0, 1, 3]
    sent = pickle.dumps(store)
    assert len(sent) < 4000
    again = pickle.loads(sent)
    assert again._shards == {} and all(map(torch.equal, again[9][0].tensors(), store[9][0].tensors()))


class Ordered(Compute):
    """Notes down the first image of each batch that it is given."""

    def __init__(self):
        super().__init__()
        self.order = []

    def __call__(self, images):
        self.order.append(int(images[0, 0, 0, 0]))
        return super().__call__(images)


@pytest.mark.parametrize(
    "share, order", [(0, [0, 3, 6, 9]), (0.5, [6, 9, 0, 3]), (0.25, [3, 6, 9, 0]), (0.9, [9, 0, 3, 6])]
)
def test_each_process_begins_at_its_share(tmp_path, share, order):
    compute, told = Ordered(), []
    fill(tmp_path, ORIGIN, test_disk.Noise(), torch.zeros(10), ("a",), compute, share=share,
         progress=lambda *now: told.append(now))  # fmt: skip
    assert compute.order[1:] == order, "the first look is at the size of one image"
    assert told == [(3, 10), (6, 10), (9, 10), (10, 10)]


def test_what_another_process_has_written_meanwhile_is_not_computed_again(tmp_path):
    other = tmp_path / "other"
    whole = made(other).folder

    class Beside(Ordered):
        """While the first shard is computed, somebody else finishes the third."""

        def __call__(self, images):
            if len(self.order) == 1:
                name = "shard-00002.safetensors"
                (tmp_path / "ours" / whole.name / name).write_bytes((whole / name).read_bytes())
            return super().__call__(images)

    compute = Beside()
    store = made(tmp_path / "ours", compute)
    assert compute.order == [0, 0, 3, 9]
    features, _ = store.__getitems__(list(range(10)))
    assert all(map(torch.equal, features.tensors(), test_disk.expected(range(10))))


def test_a_scale_is_a_tokens_wherever_channels_stand_and_a_pooled_vectors_is_one():
    need = {block_output(2): torch.randn(2, 6, 4, 3), pooled("mean"): torch.randn(2, 6)}
    parts = disk.encoded(Features(need), "int8", 1)
    shapes = {name: tuple(t.shape) for name, t in parts.items()}
    assert shapes["output.2.scale"] == (2, 1, 4, 3) and shapes["pool.mean.scale"] == (2, 1)
    last = disk.encoded(Features({block_output(2): torch.randn(2, 5, 6)}), "int8", -1)
    assert tuple(last["output.2.scale"].shape) == (2, 5, 1)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_whole_shards_and_the_next_run_goes_on(tmp_path, faulty_disk, call, error):
    faulty_disk.fail(call, error, at=3)  # store.json, a shard, the next one
    with pytest.raises(NoSpace, match="no space left on the disk of .*shard-00001.* untouched"):
        made(tmp_path)
    faulty_disk.mend()
    folder = tmp_path / ORIGIN.key()
    assert sorted(os.listdir(folder)) == ["shard-00000.safetensors", "store.json"]
    compute = Compute()
    store = made(tmp_path, compute)
    assert compute.seen == 1 + 7
    features, _ = store.__getitems__(list(range(10)))
    assert all(map(torch.equal, features.tensors(), test_disk.expected(range(10))))


def test_a_shard_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path, faulty_disk):
    tensors = {"output.2": torch.arange(6.0)}
    write_shard(tmp_path, 0, tensors)
    before = (tmp_path / "shard-00000.safetensors").read_bytes()
    faulty_disk.fail("replace", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_shard(tmp_path, 0, {"output.2": torch.zeros(6)})
    assert (tmp_path / "shard-00000.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["shard-00000.safetensors"]
