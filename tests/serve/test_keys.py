"""Who may ask, and how much."""

import hashlib
import logging
import pickle

import pytest

from sidetune.serve.bucket import Bucket, busy
from sidetune.serve.keys import KeyFile, read_keys
from sidetune.serve.settings import Settings
from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request

SUM = Ask(k=4)
GREEN, RED = "green-key-0123456789", "red-key-0123456789ab"


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(f'[green]\nkey = "{GREEN}"\n[red]\nkey = "{RED}"\nrate = 0.2\nmax_body = 15000\n')
    return path


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_nothing_but_health_is_told_to_those_without_a_key(talk, picture, keys, caplog):
    ask = build_request([picture(1)], [SUM])
    wrong = [{}, bearer(""), bearer(GREEN[:-1]), bearer(GREEN + "x"), {"Authorization": GREEN}, {"X-API-Key": GREEN}]
    wrong += [{"Authorization": b"Bearer \xff\xfe"}]

    async def work(client):
        health = [await client.get(p) for p in ("/v2/health/live", "/v2/health/ready")]
        paths = ("/v2", "/metrics", "/v2/models/tiny", "/v2/models/other", "/nowhere")
        closed = [await client.get(p, headers=h) for p in paths for h in wrong]
        closed += [await client.post(*ask, headers=h) for h in wrong]
        await client.infer([picture(1)], [SUM], headers=bearer(GREEN))
        return health, closed

    with caplog.at_level(logging.DEBUG):
        health, closed = talk(work, keys=keys)
    assert all(r.status_code == 200 for r in health) and {r.status_code for r in closed} == {401}
    assert len({r.text for r in closed}) == 1 and {r.headers["www-authenticate"] for r in closed} == {"Bearer"}
    assert GREEN not in caplog.text


def test_each_caller_has_limits_of_its_own(talk, picture, keys):
    async def work(client):
        three = build_request([picture(i) for i in range(3)], [SUM])
        small = build_request([picture(1)], [SUM])
        large = await client.post(*three, headers=bearer(RED))
        red = [await client.post(*small, headers=bearer(RED)) for _ in range(4)]
        green = [await client.post(*three, headers=bearer(GREEN)) for _ in range(3)]
        return large, red, green

    large, red, green = talk(work, keys=keys)
    assert large.status_code == 413 and {r.status_code for r in green} == {200}
    assert [r.status_code for r in red] == [200, 200, 200, 429]
    assert 1 <= int(red[-1].headers["retry-after"]) <= 60 and "0.2 images a second" in red[-1].json()["error"]


def test_a_bucket_fills_again_and_lends_to_large_requests():
    now = 0.0
    bucket = Bucket(rate=2, burst=5, clock=lambda: now)
    bucket.check()
    bucket.take(14)
    with pytest.raises(Exception, match="2 images a second"):
        bucket.check()
    now = 2.0
    bucket.check()
    now = 1000.0
    bucket.check()
    assert bucket.level == 10


@pytest.mark.parametrize("rate, burst", [(2, 5), (0.5, 10), (1000, 10)])
def test_no_more_than_the_rate_is_taken_in_the_long_run_however_it_is_asked_for(rate, burst):
    now, taken = 0.0, 0
    bucket = Bucket(rate=rate, burst=burst, clock=lambda: now)
    while now < 100:
        if bucket.debt() == 0:
            bucket.take(1)
            taken += 1
        now += 1 / (4 * rate)  # four tries for each that may be had, each a look at the bucket
    assert rate * (burst + 100) <= taken <= rate * (burst + 100) + 2


def test_a_debt_is_told_in_seconds_and_a_rate_of_0_knows_none():
    now = 10.0
    bucket = Bucket(rate=4, burst=2, clock=lambda: now)
    bucket.take(14)
    assert bucket.debt() == pytest.approx(1.5)
    now = 11.0
    assert bucket.debt() == pytest.approx(0.5) and bucket.debt() == pytest.approx(0.5)
    with pytest.raises(Exception, match="more than 4 images a second") as refused:
        bucket.check()
    assert refused.value.status_code == 429 and refused.value.headers == {"Retry-After": "1"}
    now = 11.5
    bucket.check()
    assert Bucket(rate=3).level == 30, "ten seconds are saved up unless it is said"
    free = Bucket(rate=0, clock=lambda: now)
    free.take(10**9)
    free.check()
    assert free.debt() == 0


@pytest.mark.parametrize("seconds, said", [(0, "1"), (1.2, "2"), (60, "60"), (4000, "60")])
def test_when_to_come_again_is_told_within_a_minute(seconds, said):
    assert busy("later", seconds).headers == {"Retry-After": said}
    assert (busy("later", seconds).status_code, busy("later", seconds, 429).status_code) == (503, 429)


def test_a_key_of_sixteen_characters_is_long_enough_and_limits_are_the_services_or_less(tmp_path):
    path = tmp_path / "keys.toml"
    key = "0123456789abcdef"
    path.write_text(
        f'[small]\nkey = "{key}"\nmax_body = 10\n[large]\nkey = "{key}g"\nmax_body = 999\n'
        f'[plain]\nkey = "{key}h"\nrate = 3.5\n'
    )
    keys = read_keys(path, Settings(max_body=100, rate=7))
    found = [keys.find(f"bearer {k}") for k in (key, key + "g", key + "h")]
    assert [c.name for c in found] == ["small", "large", "plain"]
    assert [c.max_body for c in found] == [10, 100, 100] and [c.bucket.rate for c in found] == [7, 7, 3.5]
    path.write_text(f'[short]\nkey = "{key[:-1]}"\n')
    with pytest.raises(ValueError, match=r"\[short\] needs key = '...' of at least 16 characters"):
        read_keys(path, Settings())


def test_without_a_file_everyone_is_one_caller_and_labels_tell_no_names(keys):
    anyone = read_keys(None, Settings(rate=3)).find("whatever")
    assert (anyone.name, anyone.label, anyone.has_key, anyone.bucket.rate) == ("anyone", "anyone", False, 3)
    green = read_keys(keys, Settings()).find(f"Bearer {GREEN}")
    assert green.label == hashlib.sha256(b"green").hexdigest()[:12] and green.has_key


def test_two_authorisations_are_none(talk, keys):
    async def work(client):
        headers = [(b"authorization", f"Bearer {GREEN}".encode()), (b"authorization", f"Bearer {RED}".encode())]
        return await client.get("/v2", headers=headers), await client.get("/v2", headers=bearer(GREEN))

    assert [r.status_code for r in talk(work, keys=keys)] == [401, 200]


def test_a_rate_that_was_changed_begins_anew(keys):
    now = [0.0]
    file = KeyFile(keys, Settings(), clock=lambda: now[0])
    red, green = (file.find(f"Bearer {key}").bucket for key in (RED, GREEN))
    keys.write_text(keys.read_text().replace("rate = 0.2", "rate = 0.25"))
    now[0] = 1.0
    assert file.find(f"Bearer {RED}").bucket is not red and file.find(f"Bearer {RED}").bucket.rate == 0.25
    assert file.find(f"Bearer {GREEN}").bucket is green
    assert pickle.loads(pickle.dumps(KeyFile(keys, Settings()))).looked == 0


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no key"),
        ("key = 'at-the-top-0123456789'", "key"),
        ("[a]\nkey = 'short'", "at least 16 characters"),
        ("[a]\nrate = 3", "at least 16 characters"),
        ("[a]\nkey = 'secret-0123456789'\nrate = 'x'", "rate"),
        ("[a]\nkey = 'secret-0123456789'\ncolour = 3", "colour"),
        ("[a]\nkey = 'secret-0123456789'\n[b]\nkey = 'secret-0123456789'", "twice"),
        ("[a\nkey = 'secret-0123456789'", "not TOML"),
    ],
)
def test_a_bad_file_of_keys_is_refused_without_showing_them(tmp_path, text, message):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_keys(path, Settings())
    assert "secret-0123456789" not in str(refused.value) and "secret" not in repr(refused.value.__cause__)


def test_keys_are_read_again_when_the_file_changes(keys, caplog):
    now = [0.0]
    file = KeyFile(keys, Settings(), clock=lambda: now[0])
    green = file.find(f"Bearer {GREEN}")
    green.bucket.take(7)
    text = keys.read_text()

    def changed(to):
        keys.write_text(to)
        now[0] += 2

    changed(text + '[new]\nkey = "another long enough key"\n')
    assert file.find("Bearer another long enough key").name == "new"
    assert file.find(f"Bearer {GREEN}").bucket is green.bucket, "a new key pays no debts"
    changed("not [toml")
    assert file.find("Bearer another long enough key") is not None and "the keys stay as they were" in caplog.text
    assert GREEN not in caplog.text
    changed('[new]\nkey = "another long enough key"\n')
    assert file.find(f"Bearer {GREEN}") is None, "taken back"
    keys.unlink()
    now[0] += 2
    assert file.find("Bearer another long enough key") is not None
    keys.write_text(text)
    now[0] += 0.5
    assert file.find(f"Bearer {GREEN}") is None, "not looked at yet"


def test_keys_do_not_show_when_they_are_printed(keys):
    assert GREEN not in repr(read_keys(keys, Settings()))


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_batch must be above 0, got 0"):
        Settings(max_batch=0)
    with pytest.raises(ValueError, match="queue must hold a batch"):
        Settings(max_batch=64, queue=32)
