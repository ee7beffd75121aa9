"""Every way in which a message is wrong has words of its own, and any that is right is read as it was built."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune.wire.ask import Ask
from sidetune.wire.codec import PRECISIONS, encode
from sidetune.wire.infer import (
    Answer,
    build_request,
    build_response,
    pack_image,
    parse_request,
    parse_response,
)
from sidetune.wire.message import TooLarge, WireError, join_elements, pack, split_elements, unpack

FILES = [b"first", b"second one"]


def said(change=lambda header: None, data=None, kind=WireError):
    """What is said of a request whose header was changed, or whose data is other than it says."""
    body, length = build_request(FILES, [Ask(k=4)])
    header = json.loads(body[:length])
    change(header)
    changed, length = pack(header, [body[length:] if data is None else data])
    with pytest.raises(WireError) as refusal:
        parse_request(changed, length)
    assert type(refusal.value) is kind
    return str(refusal.value)


def in_json(change):
    """What is said of one whose pixels stand in the JSON: (1, 1, 2, 3)."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [1, 2, 3, 4, 5, 255]}
    change(tensor)
    try:
        return parse_request(json.dumps({"inputs": [tensor]}).encode()).images.tolist()
    except WireError as e:
        return str(e)


def image(**changed):
    return lambda header: header["inputs"][0].update(changed)


def sized(size):
    return lambda header: header["inputs"][0]["parameters"].update(binary_data_size=size)


NUMBERS = "expected 6 whole numbers of 0..255 for pixels of shape [1, 1, 2, 3]"
TENSOR = "tensor 'image'"
WHOLE = "shape must be a list of whole numbers above 0 (and below 2^53)"
LENGTH = 8 + len(b"".join(FILES))


@pytest.mark.parametrize(
    "change, words",
    [
        (sized(LENGTH + 1), f"{TENSOR}: binary_data_size is {LENGTH + 1}, {LENGTH} bytes are left of the body"),
        (sized(LENGTH - 1), "1 bytes of the body belong to no tensor: no binary_data_size counts them"),
        (sized(-1), f"{TENSOR}: binary_data_size must be a whole number, got -1"),
        (sized(1.5), f"{TENSOR}: binary_data_size must be a whole number, got 1.5"),
        (sized("23"), f"{TENSOR}: binary_data_size must be a whole number, got '23'"),
        (sized(True), f"{TENSOR}: binary_data_size must be a whole number, got True"),
        (sized(2**53), f"{TENSOR}: binary_data_size must be a whole number, got {2**53}"),
        (sized(2**53 - 1), f"{TENSOR}: binary_data_size is {2**53 - 1}, {LENGTH} bytes are left of the body"),
        (image(shape=[3]), "the shape says 3 BYTES elements; the tensor holds 2 and 0 bytes behind them"),
        (image(shape=[1]), "the shape says 1 BYTES elements; the tensor holds 1 and 14 bytes behind them"),
        (image(shape=[1, 2]), "image files have shape [batch] or [batch, 1], got [1, 2]"),
        (image(shape=[2, 1, 1]), "image files have shape [batch] or [batch, 1], got [2, 1, 1]"),
        (image(shape=[2, 2]), "image files have shape [batch] or [batch, 1], got [2, 2]"),
        (image(shape=[]), f"{TENSOR}: {WHOLE}, got []"),
        (image(shape=[0]), f"{TENSOR}: {WHOLE}, got [0]"),
        (image(shape=[-2]), f"{TENSOR}: {WHOLE}, got [-2]"),
        (image(shape=[2.0]), f"{TENSOR}: {WHOLE}, got [2.0]"),
        (image(shape=[True]), f"{TENSOR}: {WHOLE}, got [True]"),
        (image(shape="2"), f"{TENSOR}: {WHOLE}, got '2'"),
        (image(shape=[2**53]), f"{TENSOR}: {WHOLE}, got [{2**53}]"),
        (image(shape=[2] + [1] * 32), f"{TENSOR}: the shape has 33 dimensions, at most 32 are known"),
        (image(shape=[2] + [1] * 3), "image files have shape [batch] or [batch, 1], got [2, 1, 1, 1]"),
        (image(datatype="FP32"), "input 'image' must be BYTES (image files) or UINT8 (pixels), got 'FP32'"),
        (image(datatype="UINT8", shape=[1, 2, 3]), "pixels have shape [batch, height, width, 3], got [1, 2, 3]"),
        (image(datatype="UINT8", shape=[1, 1, 1, 4]), "pixels have shape [batch, height, width, 3], got [1, 1, 1, 4]"),
        (
            image(datatype="UINT8", shape=[1, 1, 8, 3]),
            f"{TENSOR}: UINT8 of shape [1, 1, 8, 3] is 24 bytes, got {LENGTH}",
        ),
        (
            image(datatype="UINT8", shape=[1, 1, 7, 3]),
            f"{TENSOR}: UINT8 of shape [1, 1, 7, 3] is 21 bytes, got {LENGTH}",
        ),
        (image(data=["a"]), "input 'image' needs its data either behind the header or in it as `data`"),
        (image(name="pixels"), "expected one input named 'image', got ['pixels']"),
        (lambda h: h["inputs"].append({"name": "image"}), "a name stands twice in inputs"),
        (lambda h: h["inputs"].append({"name": "mask"}), "expected one input named 'image', got ['image', 'mask']"),
        (lambda h: h["inputs"].append(3), "inputs must be a list of objects"),
        (lambda h: h["inputs"].append({}), "each of inputs needs a name, a string"),
        (lambda h: h.update(outputs={"name": "last"}), "outputs must be a list of objects"),
        (lambda h: h.update(outputs=[{"name": 3}]), "each of outputs needs a name, a string"),
        (lambda h: h.update(outputs=[{"name": "last"}] * 2), "a name stands twice in outputs"),
        (lambda h: h.update(outputs=[{"name": "last", "parameters": []}]), "parameters must be an object"),
        (lambda h: h.update(parameters=3), "parameters must be an object"),
        (
            lambda h: h["outputs"][0]["parameters"].update(binary_data=1),
            "binary_data and binary_data_output must be true or false",
        ),
        (lambda h: h.update(id=7), "id must be a string, got 7"),
        (lambda h: h.update(id="x" * 1025), "the id has 1025 characters, at most 1024 are allowed"),
        (lambda h: h.update(parameters={"fingerprint": 3}), "fingerprint must be a string, got 3"),
    ],
)
def test_each_fault_has_its_own_words(change, words):
    assert said(change) == words


def test_an_id_of_a_thousand_characters_is_read():
    body, length = build_request(FILES, [Ask(k=4)], id="x" * 1024)
    assert parse_request(body, length).id == "x" * 1024


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\5\0\0", "BYTES element 0 is cut off within its length"),
        (b"\5\0\0\0first\1\0\0", "BYTES element 1 is cut off within its length"),
        (b"\5\0\0\0first\3\0\0\0ab", "BYTES element 1 claims 3 bytes, 2 are left of its tensor"),
        (b"\5\0\0\0first\2\0\0\0abc", "the shape says 2 BYTES elements; the tensor holds 2 and 1 bytes behind them"),
        (b"\5\0\0\0first", "the shape says 2 BYTES elements; the tensor holds 1 and 0 bytes behind them"),
        (b"", "the shape says 2 BYTES elements; the tensor holds 0 and 0 bytes behind them"),
    ],
)
def test_elements_that_do_not_fill_their_tensor_are_told_one_by_one(data, words):
    assert said(sized(len(data)), data) == words


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda t: None, [[[[1, 2, 3], [4, 5, 255]]]]),
        (lambda t: t.update(data=[[[[1, 2, 3], [4, 5, 255]]]]), [[[[1, 2, 3], [4, 5, 255]]]]),
        (lambda t: t["data"].pop(), NUMBERS),
        (lambda t: t["data"].append(0), NUMBERS),
        (lambda t: t["data"].__setitem__(0, 256), NUMBERS),
        (lambda t: t["data"].__setitem__(0, -1), NUMBERS),
        (lambda t: t["data"].__setitem__(0, 1.0), NUMBERS),
        (lambda t: t.update(data=7), NUMBERS),
        (lambda t: t.pop("data"), "input 'image' needs its data either behind the header or in it as `data`"),
        (lambda t: t.update(datatype="BYTES", shape=[1], data=["?"]), "an image file is no base64: "),
        (lambda t: t.update(datatype="BYTES", shape=[2], data=["AAAA"]), "expected a list of 2 image files in base64"),
        (
            lambda t: t.update(datatype="BYTES", shape=[1], data=["AAAA"] * 2),
            "expected a list of 1 image files in base64",
        ),
        (lambda t: t.update(datatype="BYTES", shape=[1], data=[3]), "expected a list of 1 image files in base64"),
    ],
)
def test_what_stands_in_the_json_is_counted_and_looked_at(change, found):
    result = in_json(change)
    assert result == found if isinstance(found, list) else result.startswith(found)


@pytest.mark.parametrize(
    "body, length, words",
    [
        (b"", None, "the body is empty, expected a JSON header"),
        (b"{}", 0, "Inference-Header-Content-Length is 0, the body has 2 bytes"),
        (b"{}", 3, "Inference-Header-Content-Length is 3, the body has 2 bytes"),
        (b"{}x", 2, "1 bytes of the body belong to no tensor: no binary_data_size counts them"),
        (b"[]", 2, "the header is a JSON list, expected an object"),
        (b'{"id": NaN}', 11, "NaN is no number of JSON's"),
        (b'{"id": "a", "id": "b"}', 22, "a name stands twice in one object"),
    ],
)
def test_headers_that_are_none_say_why(body, length, words):
    with pytest.raises(WireError) as refusal:
        unpack(body, length)
    assert words in str(refusal.value)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_elements_are_what_was_joined_and_no_shorter_or_longer_tensor_is(elements):
    data = join_elements(elements)
    assert [bytes(e) for e in split_elements(memoryview(data), len(elements))] == elements
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(WireError, match="BYTES element"):
            split_elements(memoryview(wrong), len(elements))


SOME = st.one_of(
    st.builds(
        Ask, k=st.integers(0, 12), precision=st.sampled_from(PRECISIONS), compression=st.sampled_from(["none", "zstd"])
    ),
    st.builds(Ask, gather=st.sampled_from(["last", "token", "stack"]), precision=st.sampled_from(PRECISIONS)),
)


@given(
    files=st.lists(st.binary(max_size=30), min_size=1, max_size=4),
    asks=st.lists(SOME, min_size=1, max_size=3, unique_by=lambda a: a.name),
    fingerprint=st.none() | st.text(max_size=8),
)
def test_any_request_is_read_as_it_was_built_and_any_answer_too(files, asks, fingerprint):
    read = parse_request(*build_request(files, asks, fingerprint))
    assert [bytes(f) for f in read.images] == files and read.asks == tuple(asks) and read.fingerprint == fingerprint
    rng = np.random.default_rng(len(files))
    x = rng.standard_normal((len(files), 3, 4)).astype(np.float32)
    answers = [Answer(ask=a, shape=(3, 4), data=[pack_image(encode(i, a.precision), a) for i in x]) for a in asks]
    body, length = build_response("m", answers, [True] * len(asks), "print")
    back = parse_response(body, length, asks)
    for ask in asks:
        assert [bytes(d) for d in back.answers[ask.name].data] == [
            bytes(d) for a in answers if a.ask == ask for d in a.data
        ]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=3))
def test_files_in_base64_are_those_behind_the_header(files):
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(files), 1],
        "data": [[base64.b64encode(f).decode()] for f in files],
    }
    assert parse_request(json.dumps({"inputs": [tensor]}).encode()).images == files


def test_images_are_counted_before_they_are_read():
    body, length = build_request([b"x"] * 3, [Ask(k=4)])
    assert len(parse_request(body, length, max_images=3).images) == 3
    with pytest.raises(TooLarge, match="3 images in one request; at most 2"):
        parse_request(body, length, max_images=2)


@pytest.mark.parametrize("missing", [("model_name",), ("parameters",), ("model_name", "parameters")])
def test_a_response_says_which_model_and_which_fingerprint(missing):
    answer = Answer(ask=Ask(k=1), shape=(3,), data=[bytes(12)])
    body, length = build_response("m", [answer], [True], "print")
    header = json.loads(body[:length])
    for part in missing:
        del header[part]
    with pytest.raises(WireError, match="names no model_name, or no fingerprint"):
        parse_response(*pack(header, [body[length:]]), [Ask(k=1)])


def test_an_answer_of_the_wrong_size_is_not_decoded():
    answer = Answer(ask=Ask(k=1), shape=(3,), data=[bytes(11), bytes(13), bytes(12)])
    for image, size in ((0, 11), (1, 13)):
        with pytest.raises(WireError, match=rf"sum.1 of shape \(3,\) is 12 bytes, got {size}"):
            answer.features(image)
    assert answer.features(2).tolist() == [0, 0, 0]
