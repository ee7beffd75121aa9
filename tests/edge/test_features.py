"""The file of features on systems with other memory pages, other address sizes and other disks."""

import errno
import mmap
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from flaky import tiny_service

from sidetune.edge import features
from sidetune.edge.client import Client
from sidetune.edge.enroll import enroll
from sidetune.edge.features import FeatureFile, Header, Places, create
from sidetune.edge.images import Item
from sidetune.edge.status import status
from sidetune.edge.trainer import fit
from sidetune.errors import DataError, NoSpace
from sidetune.train.recipe import Recipe


class Strict(mmap.mmap):
    """As a kernel with pages of `PAGESIZE` has it: what does not begin on one is EINVAL."""

    def __new__(cls, fileno, length, *args, offset=0, **kwargs):
        if offset % mmap.PAGESIZE:
            raise OSError(errno.EINVAL, "Invalid argument")
        if length > 2**31 - 1:
            raise OverflowError("cannot fit 'int' into an index-sized integer")
        return super().__new__(cls, fileno, length, *args, offset=offset, **kwargs)

    def madvise(self, option, start=0, length=None):
        if start % mmap.PAGESIZE:
            raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("page", [4096, 16384, 65536])
def test_a_file_is_filled_gone_on_with_and_trained_on_whatever_the_pages_of_memory(folder, tmp_path, monkeypatch, page):
    monkeypatch.setattr(mmap, "PAGESIZE", page)
    monkeypatch.setattr(mmap, "mmap", Strict)
    path = tmp_path / "f"
    for _ in range(2):
        enroll(Client(tiny_service(), "tiny"), folder, path, ks=[2, 4])
    assert status(path)["complete"]
    assert fit(path, tmp_path / "m", recipe=Recipe(epochs=1, lr_update="step")).k == 4


def test_the_form_of_the_file_does_not_depend_on_the_pages_of_memory(monkeypatch):
    header = Header(card=tiny_service().card, ks=(4,), precision="int8", classes=("a", "b"), images=items(3))
    places = Places.of(header, 5000)
    for page in (16384, 65536):
        monkeypatch.setattr(mmap, "PAGESIZE", page)
        assert Places.of(header, 5000) == places == Places(marks=8192, records=12288, end=12288 + 3 * 1042)


def items(number):
    return tuple(Item(path=f"{i}.jpg", label=i % 2, part="train", size=1) for i in range(number))


def test_records_beyond_four_gigabytes_are_written_and_read(tmp_path, monkeypatch):
    """With holes for all that is not written, and maps as small as they are where addresses have 32 bits."""
    monkeypatch.setattr(mmap, "mmap", Strict)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 0, 2**40))
    card = replace(tiny_service().card, width=1024, grid=(64, 64))
    wide = Header(card=card, ks=(0, 4), precision="fp32", classes=("a", "b"), images=items(150))
    path = tmp_path / "f"
    create(path, wide)
    data = np.random.default_rng(0).integers(0, 256, (2, wide.record_bytes), dtype=np.uint8)
    with FeatureFile(path, writable=True) as file:
        assert file.places.end > 2**32
        file.put(149, {0: data[0].tobytes(), 4: data[1].tobytes()})
    with FeatureFile(path) as file:
        assert np.array_equal(file.record(149, 4), data[1]) and file.place(149, 4) > 2**32
        assert not file.damaged([0, 4])


def test_a_file_that_is_cut_off_while_it_is_read_is_named(folder, tmp_path):
    path = tmp_path / "f"
    enroll(Client(tiny_service(), "tiny"), folder, path)
    with FeatureFile(path) as file:
        os.truncate(path, file.place(40, 4) + 7)
        file.record(39, 4)
        with pytest.raises(DataError, match=f"{path} ends at .* bytes, before the features at"):
            file.record(40, 4)


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_set_blocks_aside_is_used_without(folder, tmp_path, monkeypatch, refusal):
    def cannot(*_):
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    enroll(Client(tiny_service(), "tiny"), folder, tmp_path / "f")
    assert status(tmp_path / "f")["complete"]


def test_a_file_system_for_smaller_files_is_told_of_before_anything_is_sent(folder, tmp_path, monkeypatch):
    def too_large(*_):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(features.os, "ftruncate", too_large)
    with pytest.raises(NoSpace, match="f needs .* bytes, more than its file system allows a file to have"):
        enroll(Client(tiny_service(), "tiny"), folder, tmp_path / "f")
    assert not (tmp_path / "f").exists()
