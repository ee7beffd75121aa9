"""Features on disk."""

import errno
import os
import shutil
import threading
from contextlib import suppress

import pytest

from sidetune.errors import InUse, RunExists
from sidetune.serve.cache import BLOCK, MARK, Cache, checksum, name_of


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path, 10 * BLOCK)
    yield cache
    cache.close()


def files(cache):
    return [p for p in cache.folder.glob("??/*")]


def test_what_is_put_is_got_and_what_is_not_is_none(cache):
    cache.put("a", b"one")
    cache.put("b", memoryview(b""))
    assert cache.get("a") == b"one" and cache.get("b") == b"" and cache.get("c") is None


def test_a_folder_is_made_where_there_is_none_and_taken_where_there_is(tmp_path):
    for _ in range(2):
        Cache(tmp_path / "new/cache", BLOCK).close()
    assert (tmp_path / "new/cache" / MARK).read_text().startswith("features that a sidetune service keeps")


def test_what_is_counted_is_what_the_files_take_on_disk(cache):
    for key, size in (("a", BLOCK - 16), ("b", BLOCK - 15), ("c", 3 * BLOCK)):
        before = cache.total
        cache.put(key, bytes(size))
        assert cache.path(name_of(key)).stat().st_size == size + 16
        assert cache.total - before == {"a": 1, "b": 2, "c": 4}[key] * BLOCK
    cache.put("c", b"smaller now")
    assert cache.total == 4 * BLOCK == sum(cache.sizes.values())


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_an_entry_is_there_whole_or_as_it_was(cache, faulty_disk, error):
    cache.put("a", b"before")
    faulty_disk.fail("replace", error)
    for key in "ab":
        with pytest.raises(OSError, match=os.strerror(error)):
            cache.put(key, b"after")
    assert faulty_disk.seen["replace"] == 2
    assert cache.get("a") == b"before" and cache.get("b") is None and len(files(cache)) == 1
    assert cache.total == BLOCK


def test_readers_see_an_entry_before_or_after_but_never_half_of_it(cache, monkeypatch):
    """What stands under the name while a new entry is written beside it."""
    cache.put("a", b"before")
    replace, seen = os.replace, []
    monkeypatch.setattr(os, "replace", lambda half, path: (seen.append(cache.get("a")), replace(half, path)))
    cache.put("a", bytes(3 * BLOCK))
    assert seen == [b"before"] and cache.get("a") == bytes(3 * BLOCK)


def test_the_longest_unused_goes_when_there_is_no_room(cache):
    for i in range(10):
        cache.put(str(i), bytes(100))
    cache.get("0")
    cache.put("10", bytes(100))
    assert cache.get("1") is None and cache.get("0") is not None
    assert len(files(cache)) == 10 and cache.total == 10 * BLOCK
    cache.put("large", bytes(4 * BLOCK))
    assert cache.total <= 10 * BLOCK and cache.get("large") is not None
    cache.put("huge", bytes(20 * BLOCK))
    assert cache.total == 0 and not files(cache)


def test_a_damaged_file_is_forgotten(cache):
    for damage in (lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.write_bytes(b""), os.unlink):
        cache.put("a", b"features")
        damage(files(cache)[0])
        assert cache.get("a") is None and cache.total == 0 and not files(cache)


def test_a_folder_is_taken_over_with_its_order_and_without_half_written_files(cache):
    for i, key in enumerate("abc"):
        cache.put(key, b"x")
        os.utime(cache.path(next(reversed(cache.sizes))), (i, i))
    half = files(cache)[0].parent / f".{'0' * 64}.17"
    half.write_bytes(b"x")
    cache.close()
    again = Cache(cache.folder, 2 * BLOCK)
    assert again.get("a") is None and again.get("b") == again.get("c") == b"x" and len(files(again)) == 2
    assert not half.exists()
    again.close()


def test_two_services_do_not_share_a_folder(cache):
    with pytest.raises(InUse, match="in use by another service"):
        Cache(cache.folder, BLOCK)


def test_an_entry_under_anothers_name_is_noticed(cache):
    cache.put("a", b"of a")
    cache.put("b", b"of b")
    of_a, of_b = (cache.path(name_of(key)) for key in "ab")
    shutil.copy(of_a, of_b)
    assert cache.get("b") is None and not of_b.exists() and cache.get("a") == b"of a"


def test_what_others_keep_in_the_folder_is_left_alone(tmp_path):
    others = [
        tmp_path / name
        for name in (".git/HEAD", "ab/notes.txt", f"ab/.{'g' * 64}.1", ".env", "a1/.hidden", "b2", "xy/z")
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (tmp_path / "cd").symlink_to(tmp_path / "xy")
    (tmp_path / "xy" / ("c" * 64)).write_text("mine")
    for _ in range(2):
        cache = Cache(tmp_path, 2 * BLOCK)
        for i in range(50):
            with suppress(OSError):  # the folder "b2" is a file
                cache.put(str(i), b"x")
        assert cache.total == 2 * BLOCK
        cache.close()
    assert all(path.read_text() == "mine" for path in [*others, tmp_path / "xy" / ("c" * 64)])


def test_files_of_others_under_our_names_are_refused_and_untouched(tmp_path):
    entry = tmp_path / "ab" / ("ab" + "0" * 62)
    entry.parent.mkdir()
    entry.write_bytes(bytes(100))
    (tmp_path / ".lock").touch()
    with pytest.raises(RunExists, match="holds files of others under names that a cache uses"):
        Cache(tmp_path, BLOCK)
    (other := tmp_path / "other").mkdir()
    for mine in (b"mine", b"\xff\xfe is no UTF-8"):
        (other / MARK).write_bytes(mine)
        with pytest.raises(RunExists, match="holds files of others"):
            Cache(other, BLOCK)
        assert (other / MARK).read_bytes() == mine
    assert entry.read_bytes() == bytes(100)


def test_a_cache_of_version_0_1_is_taken_over_and_made_anew(tmp_path):
    name = name_of("key")
    entry = tmp_path / name[:2] / name
    entry.parent.mkdir()
    entry.write_bytes(checksum(b"features") + b"features")
    torn = tmp_path / name[:2] / (name[:2] + "0" * (len(name) - 2))
    torn.write_bytes(bytes(100))  # by a power cut
    (tmp_path / ".lock").touch()
    cache = Cache(tmp_path, 10 * BLOCK)
    assert cache.total == 2 * BLOCK and cache.get("key") is None and not entry.exists()
    cache.put("key", b"features")
    assert cache.get("key") == b"features"
    cache.close()


def test_threads_do_not_get_in_each_others_way(cache):
    def work(seed):
        for i in range(200):
            key = str((i * 7 + seed) % 15)
            if (got := cache.get(key)) is not None and got != key.encode() * 50:
                wrong.append(key)
            cache.put(key, key.encode() * 50)

    wrong = []
    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong and cache.total == BLOCK * len(files(cache)) <= 10 * BLOCK


def test_a_disk_that_takes_nothing_costs_no_answer(talk, picture, tmp_path, monkeypatch):
    from sidetune.wire.ask import Ask

    def full(self, key, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cache, "put", full)

    async def work(client):
        got = await client.infer([picture(1)], [Ask(k=4)])
        return got, (await client.get("/metrics")).text

    got, metrics = talk(work, cache=tmp_path)
    assert got["sum.4"].shape == (1, 17, 48) and "sidetune_cache_errors_total 1.0" in metrics
