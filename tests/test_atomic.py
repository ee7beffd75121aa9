import errno
import os

import pytest

from sidetune.atomic import remove_stale, replacing, write_text
from sidetune.errors import NoSpace


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_stood_there_before_stays_when_the_disk_fails(tmp_path, faulty_disk, call, error):
    path = tmp_path / "answers.json"
    write_text(path, "before")
    faulty_disk.fail(call, error)
    full = error in (errno.ENOSPC, errno.EDQUOT)
    with pytest.raises(NoSpace if full else OSError, match="no space left on the disk of .*answers" if full else None):
        write_text(path, "after")
    assert faulty_disk.seen[call] == 1
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["answers.json"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (order.append(name), real(*a))[1])
    write_text(tmp_path / "new" / "file", "äöü")
    assert order == ["fsync", "replace"]
    assert (tmp_path / "new" / "file").read_text(encoding="utf-8") == "äöü"


def test_nothing_is_begun_that_does_not_fit(tmp_path):
    with pytest.raises(NoSpace, match=r"file needs [\d,]+ MiB, but its disk has [\d,]+ MiB left"):
        with replacing(tmp_path / "file", 2**60):
            raise AssertionError("begun")
    assert os.listdir(tmp_path) == []


def test_a_block_that_fails_leaves_no_trace(tmp_path):
    with pytest.raises(KeyError):
        with replacing(tmp_path / "file") as beside:
            beside.write_text("half")
            raise KeyError
    assert os.listdir(tmp_path) == []


def test_folders_of_killed_writers_go_and_those_of_running_ones_stay(tmp_path):
    from platform import node

    gone, runs, elsewhere = (f".file.{host}~{pid}~1" for host, pid in [(node(), 2**22), (node(), 1), ("else", 2**22)])
    for name in (gone, runs, elsewhere, f".other.{node()}~{2**22}~1"):
        (tmp_path / name).mkdir()
    remove_stale(tmp_path, "file")
    assert sorted(os.listdir(tmp_path)) == sorted([runs, elsewhere, f".other.{node()}~{2**22}~1"])
    os.utime(tmp_path / elsewhere, (0, 0))
    remove_stale(tmp_path, "file")
    assert elsewhere not in os.listdir(tmp_path)
