"""How long the device waits, and what it makes of a service that always says 'later'."""

import time

import numpy as np
import pytest
from flaky import Flaky, tiny_service

from sidetune.edge.client import Client, only_model
from sidetune.edge.later import seconds_until
from sidetune.edge.transport import Reply, Unreachable
from sidetune.errors import DataError, ServiceError
from sidetune.wire.ask import Ask
from sidetune.wire.codec import encode
from sidetune.wire.infer import Answer, build_response
from sidetune.wire.message import HEADER_LENGTH, WireError

NOON = "Wed, 21 Oct 2015 12:00:00 GMT"


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("1.5", 1.5),
        (" 3 ", 3),
        ("60", 60),
        ("61", 60),
        ("1e400", 60),
        pytest.param("1" + "0" * 400, 60, id="10^400"),
        pytest.param("9" * 100_000, 60, id="a hundred thousand digits"),
        ("inf", 60),
        ("0", None),
        ("-5", None),
        pytest.param("-1" + "0" * 400, None, id="-10^400"),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("²", None),
        ("0x10", None),
        ("Wed, 21 Oct 2015 12:00:09 GMT", 9),
        ("Wednesday, 21-Oct-15 12:00:09 GMT", 9),
        ("Wed Oct 21 12:00:09 2015", 9),
        ("Wed, 21 Oct 2015 14:00:09 +0200", 9),
        ("Wed, 21 Oct 2099 12:00:00 GMT", 60),
        ("Wed, 21 Oct 2015 11:59:59 GMT", None),
        ("Wed, 21 Oct 99999 12:00:00 GMT", None),
        ("Wed, 21 Oct 2015 12:00:00 +" + "9" * 30, None),
    ],
)
def test_any_retry_after_is_read_as_some_seconds_of_at_most_a_minute_or_as_nothing(said, seconds):
    assert seconds_until({"retry-after": said, "date": NOON}) == seconds


def test_a_date_is_counted_from_the_devices_own_clock_where_the_service_tells_no_time():
    assert seconds_until({"retry-after": NOON}) is None
    assert seconds_until({"retry-after": "Wed, 21 Oct 2099 12:00:00 GMT", "date": "noon"}) == 60
    assert seconds_until({}) is None


class Always:
    """A transport that gives the same answer to everything."""

    def __init__(self, reply):
        self.reply, self.num_asked = reply, 0

    def send(self, path, body=None, headers=None):
        self.num_asked += 1
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only while a client waits; the list of those waits."""
    waits = []

    def of(client):
        def wait(seconds):
            waits.append(seconds)

        monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + sum(waits))
        monkeypatch.setattr(client.stop, "wait", wait)
        client.served = time.monotonic()
        return waits

    return of


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}, {"retry-after": "9" * 400}, {"retry-after": "50"}])
def test_patience_bounds_a_service_that_says_later_to_everything(clock, status, headers):
    transport = Always(Reply(status=status, body=b'{"error": "too many images waiting"}', headers=headers))
    client = Client(transport, "tiny", patience=300)
    waits = clock(client)
    with pytest.raises(ServiceError, match=f"put off every request for 300 s: answer {status} .too many images"):
        client.card()
    assert sum(waits) == pytest.approx(300) and max(waits) < 61
    assert 6 <= transport.num_asked < 60


def test_patience_bounds_silence_as_before_and_a_service_that_was_never_heard_is_given_up_sooner(clock):
    client = Client(Always(Unreachable("connection refused")), "tiny", patience=300)
    waits = clock(client)
    with pytest.raises(ServiceError, match=r"has not answered for 15 s: no answer \(connection refused\)"):
        client.card()
    assert sum(waits) == pytest.approx(15)


def test_what_is_served_in_between_renews_the_patience(clock):
    """A rate that makes each image wait is no reason to give up: the service works."""
    later = Reply(status=429, body=b"{}", headers={"retry-after": "40"})
    flaky = Flaky(tiny_service(), [later, later, None] * 10)
    client = Client(flaky, "tiny", patience=100)
    waits = clock(client)
    card = client.card()
    for _ in range(10):
        with pytest.raises(DataError, match="none of JPEG"):
            client.features(b"no image", [Ask(k=4)], card)
    assert len(waits) == 20 and sum(waits) > 800


def test_a_device_that_was_idle_for_longer_than_its_patience_still_has_it(clock):
    client = Client(Flaky(tiny_service(), [Unreachable("reset")]), "tiny", patience=100)
    waits = clock(client)
    card = client.card()
    waits.append(10_000)
    with pytest.raises(DataError, match="none of JPEG"):
        client.features(b"no image", [Ask(k=4)], card)


@pytest.mark.parametrize("patience", [-1, float("nan"), float("-inf")])
def test_a_patience_that_is_none_is_refused(patience):
    with pytest.raises(ValueError, match="patience must be 0 seconds or more, got"):
        Client(Always(Unreachable("")), "tiny", patience=patience)


def test_without_patience_the_first_failure_is_the_last(clock):
    transport = Always(Reply(status=503, body=b"{}", headers={"retry-after": "5"}))
    client = Client(transport, "tiny", patience=0)
    waits = clock(client)
    with pytest.raises(ServiceError, match="for 0 s: answer 503"):
        client.card()
    assert transport.num_asked == 1 and not waits


@pytest.mark.parametrize("length", ["²", "-1", "1e3", "9" * 5000, "", "12 ", "0"])
def test_a_header_length_that_is_none_makes_an_answer_nonsense_and_no_traceback(clock, length):
    bad = Reply(status=200, body=b"{}", headers={HEADER_LENGTH.lower(): length})
    flaky = Flaky(tiny_service(), [bad] * 5)
    client = Client(flaky, "tiny")
    clock(client)
    card = client.card()
    with pytest.raises(ServiceError, match="5 answers in a row to one request made no sense"):
        client.features(b"no image", [Ask(k=4)], card)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"[]"])
def test_something_else_at_the_address_is_called_that(body):
    client = Client(Always(Reply(status=200, body=body)), "tiny")
    for ask in (client.card, lambda: only_model(client)):
        with pytest.raises(WireError, match="what answers at this address is no feature service"):
            ask()


def test_answers_of_the_first_services_are_read():
    """They have shapes in lists, and neither version nor id."""
    card = tiny_service().card
    ask = Ask(gather="token", precision="int8")
    data = encode(np.arange(48, dtype=np.float32), "int8").data
    answer = Answer(ask=ask, shape=(48,), data=[data])
    body, length = build_response("tiny", [answer], [True], card.fingerprint, to_first_device=True)
    head = body[:length].replace(b'"model_version":"1","id":"",', b"")
    reply = Reply(status=200, body=head + body[length:], headers={HEADER_LENGTH.lower(): str(len(head))})
    got = Client(Always(reply), "tiny").features(b"x", [ask], card)
    assert bytes(got["token"]) == bytes(data)
