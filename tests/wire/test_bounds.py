"""Messages that are made to cost their reader more than their writer."""

import json

import numpy as np
import pytest

from sidetune.wire import infer, message
from sidetune.wire.ask import Ask
from sidetune.wire.infer import Answer, build_error, build_request, build_response, parse_request
from sidetune.wire.message import TooLarge, WireError, join_elements, pack, read_json


def request(**changed):
    """A request for one image whose header was changed."""
    body, length = build_request([b"image"], [Ask(k=4)])
    return pack({**json.loads(body[:length]), **changed}, [body[length:]])


def refusal(body, length=None, kind=WireError, **limits):
    """What is said of a message; it must not cost megabytes to say."""
    with pytest.raises(kind) as refused:
        parse_request(body, length, **limits)
    assert len(str(refused.value)) < 2000
    return str(refused.value)


@pytest.mark.parametrize("many", [b"[],", b"{},", b"1,", b'"",', b"[[1],", b'{"a":[1,2]},'])
def test_json_of_too_many_values_is_not_read_at_all(many, monkeypatch):
    text = b'{"inputs": [' + many * (message.MAX_HEADER // len(many) - 10) + b"1]}"

    def never(*_, **__):
        raise AssertionError("it was read")

    monkeypatch.setattr(message.json, "loads", never)
    assert "at most 262144 and 4096 are allowed; send what is large as bytes" in refusal(text, kind=TooLarge)


def test_json_that_is_too_long_is_not_read_either():
    text = b" " * (message.MAX_HEADER + 1)
    assert "4194305 bytes, at most 4194304" in refusal(text, kind=TooLarge)


def test_a_picture_in_nested_lists_of_numbers_is_read():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 224, 224, 3], "data": pixels.tolist()}
    text = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()
    assert np.array_equal(parse_request(text).images, pixels)


@pytest.mark.parametrize("count", [65, 2**23])
def test_images_above_the_limit_are_not_split(count, monkeypatch):
    data = join_elements([b""] * 65) if count == 65 else bytes(4 * count)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [count],
        "parameters": {"binary_data_size": len(data)},
    }
    monkeypatch.setattr(infer, "split_elements", None)
    said = refusal(*pack({"inputs": [tensor]}, [data]), kind=TooLarge, max_images=64)
    assert said == f"{count} images in one request; at most 64"


def test_more_outputs_than_any_backbone_has_are_refused():
    names = [{"name": f"sum.{i}"} for i in range(257)]
    assert refusal(*request(outputs=names), kind=TooLarge) == "257 outputs in one message; at most 256"
    assert parse_request(*request(outputs=names[:256])).asks[255].k == 255


@pytest.mark.parametrize(
    "changed",
    [
        {"outputs": [{"name": "x" * 2_000_000}]},
        {"outputs": [{"name": "last", "parameters": {"precision": "x" * 2_000_000}}]},
        {"outputs": [{"name": "last", "parameters": {"compression": ["x" * 2_000_000]}}]},
        {"inputs": [{"name": "x" * 2_000_000, "shape": [1]}]},
        {"inputs": [{"name": "image", "datatype": "x" * 2_000_000, "shape": [1]}]},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": "x" * 2_000_000}]},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1] * 100_000}]},
        {"inputs": [{"name": "image", "shape": [1], "parameters": {"binary_data_size": "9" * 2_000_000}}]},
        {"id": "x" * 2_000_000},
        {"id": ["x" * 2_000_000]},
        {"parameters": {"fingerprint": ["x"] * 100_000}},
    ],
)
def test_text_of_megabytes_is_refused_in_a_few_words(changed):
    refusal(*request(**changed))


@pytest.mark.parametrize("digits", [17, 4000, 4299, 5000])
@pytest.mark.parametrize(
    "where",
    [
        '{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, NUMBER, 1, 3], "data": [1]}]}',
        '{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [NUMBER, NUMBER, NUMBER, 3], "data": [1]}]}',
        '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [NUMBER], "data": [""]}]}',
        '{"inputs": [{"name": "image", "shape": [1], "parameters": {"binary_data_size": NUMBER}}]}',
        '{"inputs": [{"name": "image", "datatype": NUMBER, "shape": [1], "data": [""]}]}',
        '{"inputs": [{"name": "image", "shape": [1]}], "id": NUMBER}',
        '{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, NUMBER]}]}',
    ],
)
def test_numbers_of_any_length_are_refused(where, digits):
    refusal(where.replace("NUMBER", "9" * digits).encode())


def test_shapes_of_many_dimensions_are_refused():
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1] * 33, "data": [1]}
    assert "33 dimensions, at most 32" in refusal(json.dumps({"inputs": [tensor]}).encode())


@pytest.mark.parametrize("half", [b"\\ud800", b"\\uDFFF", b"a\\ud83db", b"\xed\xa0\x80", b"\xed\xbf\xbf"])
@pytest.mark.parametrize("where", [b'{"id": "HALF"}', b'{"parameters": {"fingerprint": "HALF"}}', b'{"HALF": 1}'])
def test_half_a_surrogate_pair_is_no_text(where, half):
    with pytest.raises(WireError, match="surrogate|utf-8"):
        read_json(where.replace(b"HALF", half))


def test_a_whole_surrogate_pair_is_one_character():
    assert read_json(b'{"id": "\\ud83d\\ude00"}') == {"id": "\U0001f600"}


def test_json_is_utf_8_and_nothing_else():
    for coding in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig"):
        with pytest.raises(WireError, match="no JSON that can be read"):
            read_json('{"id": "7"}'.encode(coding))


def test_an_error_is_text_that_can_be_sent():
    said = build_error("image \ud800: " + "x" * 10_000)["error"]
    assert said.startswith("image ?: xxx") and len(said) < 4200 and said.endswith(" ...")
    said.encode()


def test_long_answers_in_json_hold_every_number_once():
    x = np.random.default_rng(0).standard_normal((3, 2 * infer.PIECE + 1)).astype(np.float32)
    answer = Answer(ask=Ask(gather="token"), shape=x.shape[1:], data=[row.tobytes() for row in x])
    other = Answer(ask=Ask(gather="last"), shape=(2,), data=[bytes(8)] * 3)
    body, length = build_response("tiny", [answer, other, answer], [False, True, False], "print", id='",')
    said = json.loads(body[:length])
    assert said["id"] == '",' and [o["name"] for o in said["outputs"]] == ["token", "last", "token"]
    for output in said["outputs"][::2]:
        assert np.array_equal(np.array(output["data"], np.float32), x.ravel())
    assert body[length:] == bytes(24)
