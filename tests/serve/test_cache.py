"""Features on disk."""

import os
import threading

import pytest

from sidetune.serve.cache import BLOCK, Cache


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
    (files(cache)[0].parent / ".half.1").write_bytes(b"x")
    cache.close()
    again = Cache(cache.folder, 2 * BLOCK)
    assert again.get("a") is None and again.get("b") == again.get("c") == b"x" and len(files(again)) == 2
    again.close()


def test_two_services_do_not_share_a_folder(cache):
    with pytest.raises(ValueError, match="in use by another service"):
        Cache(cache.folder, BLOCK)


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
