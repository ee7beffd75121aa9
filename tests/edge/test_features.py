"""The file of features on systems with other memory pages, other address sizes and other disks."""

import errno
import hashlib
import mmap
import os
import shutil
import zlib
from dataclasses import replace
from types import SimpleNamespace

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
from sidetune.recipe import Recipe


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


def test_marks_begin_on_the_first_page_behind_the_header():
    header = SimpleNamespace(ks=(), images=(), record_bytes=0)
    magic_length_and_digest = len(features.MAGIC) + 8
    for fits, marks in ((1, 4096), (4096, 4096), (4097, 8192), (8192, 8192)):
        assert Places.of(header, fits - magic_length_and_digest).marks == marks


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


@pytest.fixture
def filled(tmp_path):
    """A file with two of three images, their bytes, and a header of its own to be damaged."""
    header = Header(card=tiny_service().card, ks=(2, 4), precision="int8", classes=("a", "b"), images=items(3))
    path, rng = tmp_path / "f", np.random.default_rng(0)
    create(path, header)
    data = {i: {k: rng.bytes(header.record_bytes) for k in (2, 4)} for i in (0, 2)}
    with FeatureFile(path, writable=True) as file:
        for image, records in data.items():
            file.put(image, records)
    return path, header, data


def whole(path, data):
    with FeatureFile(path) as file:
        return file.part("train").tolist() == sorted(data) and not file.damaged([2, 4]) and all(
            file.record(image, k).tobytes() == records[k] for image, records in data.items() for k in (2, 4)
        )  # fmt: skip


def test_what_is_put_is_read_at_its_place(filled):
    path, header, data = filled
    assert whole(path, data)
    raw = path.read_bytes()
    assert raw[:8] == b"SIDETUNE" and len(raw) == 8192 + 6 * header.record_bytes
    assert raw[8192 + 5 * header.record_bytes :] == data[2][4], "the last image under the last k"
    marks = np.frombuffer(raw[4096 : 4096 + 36], "<u4").reshape(3, 3)
    assert marks.tolist() == [
        [1, *(zlib.crc32(data[i][k]) for k in (2, 4))] if i in data else [0, 0, 0] for i in range(3)
    ]


@pytest.mark.parametrize("most", [1, 7, 4095])
def test_writes_that_are_cut_short_are_gone_on_with(filled, faulty_disk, most):
    path, header, data = filled
    data[1] = {k: bytes([k]) * header.record_bytes for k in (2, 4)}
    faulty_disk.shorten("pwrite", most)
    with FeatureFile(path, writable=True) as file:
        file.put(1, data[1])
    faulty_disk.mend()
    assert faulty_disk.seen["pwrite"] >= 2 * header.record_bytes // most and whole(path, data)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_full_disk_is_named_and_what_was_there_stays(filled, faulty_disk, error, at):
    """It fails at the first record, at the second, or at the mark."""
    path, header, data = filled
    faulty_disk.fail("pwrite", error, at=at)
    with FeatureFile(path, writable=True) as file:
        full = error != errno.EIO
        said = f"no space left on the disk of {path}; what is in it stays good" if full else os.strerror(error)
        with pytest.raises(NoSpace if full else OSError, match=said):
            file.put(1, {k: bytes(header.record_bytes) for k in (2, 4)})
    faulty_disk.mend()
    assert whole(path, data)


def test_reads_that_are_cut_short_are_gone_on_with(filled, monkeypatch):
    path, _, data = filled
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, place: pread(file, min(size, 100), place))
    assert whole(path, data)


@pytest.mark.parametrize("call", ["ftruncate", "posix_fallocate", "fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_file_for_which_there_is_no_room_is_not_begun(filled, tmp_path, faulty_disk, call, error):
    _, header, _ = filled
    faulty_disk.fail(call, error)
    with pytest.raises(NoSpace, match="no space left on the disk of .*new"):
        create(tmp_path / "new", header)
    assert faulty_disk.seen[call] == 1 and sorted(os.listdir(tmp_path)) == ["f"]


def test_blocks_are_set_aside_before_anything_is_sent(filled, tmp_path, monkeypatch):
    _, header, _ = filled
    asked = []
    monkeypatch.setattr(os, "posix_fallocate", lambda file, start, size: asked.append((start, size)))
    create(tmp_path / "new", header)
    assert asked == [(0, (tmp_path / "new").stat().st_size)] == [(0, 8192 + 6 * header.record_bytes)]


@pytest.mark.parametrize("number", [0, 2, 99])
def test_another_format_is_refused_whether_older_or_newer(filled, number):
    path, header, _ = filled
    raw = path.read_bytes()
    text = header.written()
    other = text.replace(b'{"format":1,', b'{"format":%d,' % number).ljust(len(text))
    path.write_bytes(
        raw[:8] + np.array([len(other), zlib.crc32(other)], "<u4").tobytes() + other + raw[16 + len(other) :]
    )
    with pytest.raises(DataError, match="the header of .*f cannot be read: this version reads format 1"):
        FeatureFile(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda raw: b"", "is no file of features; `sidetune edge enroll` writes one"),
        (lambda raw: raw[:15], "is no file of features"),
        (lambda raw: b"sidetune" + raw[8:], "is no file of features"),
        (lambda raw: raw[:500], "the header of .* is damaged; remove the file and enrol again"),
        (lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:], "the header of .* is damaged"),
        (lambda raw: raw[:-1], "should have .* bytes but has .*; it was cut off or is not whole"),
        (lambda raw: raw + b"x", "should have .* bytes but has"),
    ],
)
def test_a_file_that_is_none_or_not_whole_says_so(filled, damage, message):
    path, _, _ = filled
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        FeatureFile(path)


def test_a_mark_that_is_none_counts_as_missing_and_a_changed_record_as_damaged(filled):
    path, header, data = filled
    raw = bytearray(path.read_bytes())
    raw[4096] = 7
    raw[-1] ^= 1
    path.write_bytes(raw)
    with FeatureFile(path) as file:
        assert file.part("train").tolist() == [2]
        assert file.damaged([4]) == [2] and file.damaged([2]) == []


def test_one_process_writes_at_a_time_and_others_read(filled):
    path, _, data = filled
    with FeatureFile(path, writable=True):
        with pytest.raises(DataError, match="another process is writing to"):
            FeatureFile(path, writable=True)
        assert whole(path, data)
    FeatureFile(path, writable=True).file.close()


def test_the_digest_is_of_labels_and_of_what_is_kept_under_a_k(filled):
    path, header, data = filled
    with FeatureFile(path) as file:
        rows = [[i % 2, zlib.crc32(data[i][4])] for i in (0, 2)]
        assert file.digest("train", 4) == hashlib.sha256(np.array(rows, "<u4").tobytes()).hexdigest()
        assert file.digest("train", 4) != file.digest("train", 2)
        assert file.labels().tolist() == [0, 1, 0] and file.part("val").tolist() == []


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
