"""Requests, responses and model metadata as both sides build and read them."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from sidetune.wire.ask import Ask
from sidetune.wire.codec import PRECISIONS, encode
from sidetune.wire.infer import (
    Answer,
    build_error,
    build_request,
    build_response,
    pack_image,
    parse_error,
    parse_request,
    parse_response,
)
from sidetune.wire.message import TooLarge, WireError, join_elements, pack, split_elements, unpack
from sidetune.wire.metadata import ModelCard

CARD = ModelCard(
    name="tiny",
    architecture="vit_tiny_patch16_224",
    digest="ab" * 32,
    image_size=(32, 32),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.25),
    transform="vtab",
    num_blocks=4,
    width=48,
    grid=(4, 4),
    num_prefix_tokens=1,
)
FILES = [b"first image", b"", b"third"]
PIXELS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
ASKS = [Ask(k=4), Ask(k=2, precision="int8"), Ask(gather="token", precision="int4", compression="zstd")]


def request(change):
    """A request for FILES whose header was changed."""
    body, length = build_request(FILES, ASKS)
    header = json.loads(body[:length])
    change(header)
    return pack(header, [body[length:]])


def refused(body, length, message):
    with pytest.raises(WireError, match=message):
        parse_request(body, length)


@pytest.mark.parametrize("images", [FILES, PIXELS])
def test_a_request_is_read_as_it_was_built(images):
    read = parse_request(*build_request(images, ASKS, fingerprint="f", id="7"))
    assert read.asks == tuple(ASKS) and read.binary == (True, True, True) and (read.fingerprint, read.id) == ("f", "7")
    assert np.array_equal(read.images, images) if images is PIXELS else [bytes(i) for i in read.images] == images


def test_a_response_is_read_as_it_was_built_and_decodes():
    rng = np.random.default_rng(0)
    asks = [
        Ask(k=k, precision=p, compression=c)
        for k, (p, c) in enumerate((p, c) for p in PRECISIONS for c in ("none", "zstd"))
    ]
    x = {a.name: rng.standard_normal((3, 17, 48)).astype(np.float32) for a in asks}
    answers = [
        Answer(ask=a, shape=(17, 48), data=[pack_image(encode(i, a.precision), a) for i in x[a.name]]) for a in asks
    ]
    body, length = build_response("tiny", answers, [True] * len(asks), "print", id="7")
    read = parse_response(body, length, asks)
    assert (read.model, read.fingerprint, read.id) == ("tiny", "print", "7")
    for ask in asks:
        answer = read.answers[ask.name]
        y = np.stack([answer.features(i) for i in range(3)])
        assert np.abs(y - x[ask.name]).max() <= {"fp32": 0, "fp16": 2e-3, "int8": 0.05, "int4": 2}[ask.precision]


def test_answers_in_json_are_plain_numbers_and_only_fp32_has_them():
    x = np.arange(6, dtype=np.float32)
    answer = Answer(ask=Ask(gather="token"), shape=(3,), data=[x[:3].tobytes(), x[3:].tobytes()])
    body, length = build_response("tiny", [answer], [False], "print")
    (output,) = json.loads(body)["outputs"]
    assert length is None and output["data"] == x.tolist()
    assert (output["datatype"], output["shape"]) == ("FP32", [2, 3])
    with pytest.raises(WireError, match="no form in JSON"):
        build_response("tiny", [replace(answer, ask=Ask(gather="token", precision="fp16"))], [False], "print")


def test_images_may_stand_in_the_json():
    coded = [base64.b64encode(f).decode() for f in FILES]
    whole = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": coded}]}).encode()
    read = parse_request(whole)
    assert read.images == FILES and read.asks == () and read.binary == (False,)
    nested = {"name": "image", "datatype": "UINT8", "shape": list(PIXELS.shape), "data": PIXELS.tolist()}
    assert np.array_equal(parse_request(json.dumps({"inputs": [nested]}).encode()).images, PIXELS)


def test_outputs_may_each_say_whether_they_come_in_bytes():
    def change(header):
        header["outputs"][1]["parameters"] = {"binary_data": False}

    assert parse_request(*request(change)).binary == (True, False, True)


def test_a_request_without_outputs_says_how_the_default_one_comes():
    def change(header):
        del header["outputs"]
        header["parameters"] = {"precision": "int8", "compression": "zstd", "binary_data_output": True}

    read = parse_request(*request(change))
    assert (read.asks, read.binary, read.precision, read.compression) == ((), (True,), "int8", "zstd")
    assert CARD.default(read.precision, read.compression) == Ask(k=4, precision="int8", compression="zstd")
    assert replace(CARD, gathers=("last", "token")).default().name == "last"


@pytest.mark.parametrize("wrong", [{"precision": "int3"}, {"compression": "gzip"}, {"precision": ["int8"]}])
@pytest.mark.parametrize("outputs", [None, [], [{"name": "last", "parameters": {"precision": "fp32"}}]])
def test_nonsense_in_the_requests_parameters_is_refused_whether_or_not_an_output_takes_it(wrong, outputs):
    (name,) = wrong
    refused(
        *request(lambda h: h.update(outputs=outputs, parameters=wrong)),
        f"parameters: unknown {name} .*nown: (fp32|none)",
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(id=None),
        lambda h: h.update(parameters=None),
        lambda h: h.update(parameters={"fingerprint": None, "binary_data_output": None, "precision": None}),
        lambda h: h.update(parameters={"compression": None, "classification": None}),
        lambda h: h["inputs"][0].update(data=None),
        lambda h: h["outputs"][0].update(parameters=None),
        lambda h: h["outputs"][1]["parameters"].update(compression=None),
        lambda h: h["outputs"][0]["parameters"].update(shared_memory_region=None, binary_data=True),
    ],
)
def test_an_optional_part_that_is_null_counts_as_left_out(change):
    read = parse_request(*request(change))
    assert [bytes(i) for i in read.images] == FILES and [a.name for a in read.asks] == [a.name for a in ASKS]
    assert read.id is None and read.asks[1] == ASKS[1] and read.fingerprint is None


def test_null_for_all_outputs_and_for_an_inputs_parameters_too():
    assert parse_request(*request(lambda h: h.update(outputs=None))).asks == ()
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": None, "data": ["AAAA"]}
    assert parse_request(json.dumps({"inputs": [image]}).encode()).images == [bytes(3)]


def test_a_needed_part_that_is_null_is_refused_as_a_missing_one():
    for part in ("name", "datatype", "shape"):
        refused(
            *request(lambda h, p=part: h["inputs"][0].update({p: None})), part if part != "datatype" else "got None"
        )
    refused(*request(lambda h: h.update(inputs=None)), "belong to no tensor|expected one input")


@pytest.mark.parametrize(
    "parameter",
    [
        {"classification": 3},
        {"shared_memory_region": "r", "shared_memory_byte_size": 9},
        {"shared_memory_byte_size": 9},
        {"shared_memory_offset": 9},
    ],
)
def test_what_would_change_the_form_of_an_answer_is_refused_and_not_ignored(parameter):
    name = next(iter(parameter))
    for place in ("inputs", "outputs"):
        refused(*request(lambda h, p=place: h[p][0]["parameters"].update(parameter)), f"{name} is not offered here")
    refused(*request(lambda h: h["parameters"].update(parameter)), f"the request's parameters: {name} is not offered")
    nothing = dict.fromkeys(parameter, 0)
    assert parse_request(*request(lambda h: h["outputs"][0]["parameters"].update(nothing))).asks == tuple(ASKS)


def test_too_much_json_is_told_from_other_faults():
    with pytest.raises(TooLarge, match="the JSON has 4194305 bytes, at most 4194304 are allowed; send what is large"):
        parse_request(b" " * (2**22 + 1))


def test_lies_about_lengths_are_refused():
    body, length = build_request(FILES, ASKS)
    for wrong in (0, -1, len(body) + 1, 10**9):
        refused(body, wrong, f"Inference-Header-Content-Length is {wrong}, the body has {len(body)} bytes")
    refused(body, length - 1, "the header is no JSON that can be read: Expecting")
    refused(body, length + 1, "the header is no JSON that can be read: Extra data")
    refused(body + b"x", length, "1 bytes of the body belong to no tensor")
    refused(body[:-1], length, "binary_data_size is 28, 27 bytes are left")
    for size, message in (
        (27, "1 bytes of the body belong to no tensor"),
        (29, "binary_data_size is 29, 28 bytes are left of the body"),
        (None, "28 bytes of the body belong to no tensor"),
        *((size, f"binary_data_size must be a whole number, got {size!r}") for size in (-1, 2**63, 1.5, "28", True)),
    ):
        refused(*request(lambda h, size=size: h["inputs"][0]["parameters"].update(binary_data_size=size)), message)
    refused(b"", None, "the body is empty")
    refused(body, None, "without Inference-Header-Content-Length the whole body is JSON")


def test_lies_about_shapes_and_types_are_refused():
    for shape, message in (
        ([2], "the shape says 2 BYTES elements; the tensor holds 2 and 9 bytes behind them"),
        ([4], "the shape says 4 BYTES elements; the tensor holds 3 and 0 bytes behind them"),
        ([3, 2], r"image files have shape \[batch\] or \[batch, 1\], got \[3, 2\]"),
        *(
            (shape, re.escape(f"shape must be a list of whole numbers above 0 (and below 2^53), got {shape!r}"))
            for shape in ([10**18], [-3], [0], [], "3", [True], [1.5], None)
        ),
    ):
        refused(*request(lambda h, s=shape: h["inputs"][0].update(shape=s)), message)
    for datatype in ("FP32", "", None, 3, ["BYTES"], {}):
        refused(*request(lambda h, d=datatype: h["inputs"][0].update(datatype=d)), "must be BYTES")
    refused(*request(lambda h: h["inputs"][0].update(datatype="UINT8")), "pixels have shape")
    refused(*request(lambda h: h["inputs"][0].update(datatype="UINT8", shape=[10**9] * 3 + [3])), "bytes, got 28")
    refused(*request(lambda h: h["inputs"][0].update(data=["aaaa"])), "either behind the header or in it")
    refused(*request(lambda h: h["inputs"].append({"name": "more"})), "expected one input")
    refused(*request(lambda h: h["inputs"][0].update(name="pixels")), "expected one input named 'image'")


@pytest.mark.parametrize("name", ["sum", "sum.x", "sum.-1", "sum.01", "sum.99999", "sum.²", "last.3", "mean"])
def test_outputs_that_do_not_exist_are_refused(name):
    known = re.escape(f"output '{name}': unknown output '{name}'; known: sum.K with K = 0..N, last, token, stack")
    refused(*request(lambda h: h.update(outputs=[{"name": name}])), known)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"name": 3}, "each of outputs needs a name, a string"),
        ({}, "each of outputs needs a name, a string"),
        ({"name": "last", "parameters": {"precision": "int2"}}, "output 'last': unknown precision 'int2'"),
        ({"name": "last", "parameters": {"precision": ["int8"]}}, "unknown precision .*int8.*; did you mean int8"),
        ({"name": "last", "parameters": {"compression": "gzip"}}, "unknown compression 'gzip'; known: none, zstd"),
        (
            {"name": "last", "parameters": {"binary_data": 1}},
            "binary_data and binary_data_output must be true or false",
        ),
        ({"name": "last", "parameters": []}, "parameters must be an object"),
    ],
)
def test_outputs_that_say_nonsense_are_refused(output, message):
    refused(*request(lambda h: h.update(outputs=[output])), message)


UNREADABLE = "the header is no JSON that can be read"
PIXEL = b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1,1,1,3], "data": %s}]}'
FILE = b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]%s}]}'
NO_PIXEL = r"expected 3 whole numbers of 0..255 for pixels of shape \[1, 1, 1, 3\]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the body is empty, expected a JSON header"),
        (b"{", f"{UNREADABLE}: Expecting property name"),
        (b"[]", "the header is a JSON list, expected an object"),
        (b"3", "the header is a JSON int, expected an object"),
        (b"\xff\xfe", f"{UNREADABLE}: 'utf-8' codec"),
        (b"[" * 100_000, f"{UNREADABLE}: maximum recursion depth"),
        (b'{"inputs": 3}', "inputs must be a list of objects"),
        (b'{"inputs": [3]}', "inputs must be a list of objects"),
        (b'{"inputs": []}', "expected one input named 'image', got "),
        (b'{"inputs": [], "inputs": []}', f"{UNREADABLE}: a name stands twice"),
        (b'{"id": NaN}', f"{UNREADABLE}: NaN is no number"),
        (b'{"id": ' + b"9" * 5000 + b"}", UNREADABLE),
        (PIXEL % b"[1, 2, 256]", NO_PIXEL),
        (PIXEL % b"[1, 2, true]", NO_PIXEL),
        (PIXEL % b"[1, 2, [3]]", NO_PIXEL),
        (PIXEL % (b"[" * 99 + b"]" * 99), NO_PIXEL),
        (FILE % b', "data": ["?"]', "an image file is no base64"),
        (FILE % b', "data": [3]', "expected a list of 1 image files in base64"),
        (FILE % b"", "input 'image' needs its data either behind the header or in it"),
    ],
)
def test_json_that_is_no_request_is_refused(text, message):
    refused(text, None, message)


def test_bytes_elements_are_split_only_where_they_fill_their_tensor():
    data = join_elements(FILES)
    assert data[:4] == b"\x0b\0\0\0" and [bytes(e) for e in split_elements(memoryview(data), 3)] == FILES
    for wrong, count in ((data[:-1], 3), (data, 2), (data, 4), (data + b"\0", 3), (data[:2], 1), (b"\xff" * 8, 1)):
        with pytest.raises(WireError, match="BYTES element"):
            split_elements(memoryview(wrong), count)


def test_a_response_to_something_else_is_refused():
    answer = Answer(ask=Ask(k=4), shape=(3,), data=[bytes(12)])
    body, length = build_response("tiny", [answer], [True], "print")
    assert parse_response(body, length, [Ask(k=4)]).answers["sum.4"].features(0).tolist() == [0, 0, 0]
    for asks, message in (
        ([Ask(k=3)], "asked for sum.3 in bytes, got sum.4"),
        ([Ask(k=4, precision="int8")], "output 'sum.4' should be .*'UINT8'.*, got FP32"),
        ([Ask(k=4, compression="zstd")], "output 'sum.4' should be .*'BYTES'.*, got FP32"),
        ([Ask(k=4), Ask(k=3)], "asked for sum.4, sum.3 in bytes, got sum.4"),
        ([], "asked for  in bytes, got sum.4"),
    ):
        with pytest.raises(WireError, match=message):
            parse_response(body, length, asks)


def answered(**given):
    """The header of an answer, and its body."""
    answer = Answer(ask=Ask(k=4, precision="int8"), shape=(1, 3), data=[bytes(5), bytes(5)])
    body, length = build_response("tiny", [answer], [True], "print", **given)
    return json.loads(body[:length]), body, length


def test_an_answers_parameters_are_strings_numbers_and_booleans_and_its_parts_those_of_the_protocol():
    header, body, length = answered()
    (output,) = header["outputs"]
    for value in (*header["parameters"].values(), *output["parameters"].values()):
        assert isinstance(value, (str, int, float, bool))
    assert output["parameters"]["shape"] == "[1, 3]" and isinstance(header["id"], str)
    assert header["model_name"] == "tiny" and header["model_version"] == "1"
    assert answered(id="7")[0]["id"] == "7"
    read = parse_response(body, length, [Ask(k=4, precision="int8")])
    assert read.answers["sum.4"].shape == (1, 3)


def test_the_first_devices_and_services_still_understand_each_other():
    """Version 0.1 of the device asks in this form, and reads shapes that are lists; its service writes no other."""
    told = {
        "parameters": {"binary_data_output": True, "fingerprint": "print"},
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}],
        "outputs": [{"name": "sum.4", "parameters": {"precision": "int8", "compression": "none"}}],
    }
    read = parse_request(*pack(told, [join_elements([b"x"])]))
    assert read.of_first_device and read.asks == (Ask(k=4, precision="int8"),) and read.binary == (True,)
    header, body, length = answered(to_first_device=True)
    assert header["outputs"][0]["parameters"]["shape"] == [1, 3]
    assert parse_response(body, length, [Ask(k=4, precision="int8")]).answers["sum.4"].shape == (1, 3)
    assert not parse_request(*build_request(FILES, ASKS, fingerprint="print")).of_first_device


@pytest.mark.parametrize("shape", ["", "[", "3", "[0]", "[-1]", "{}", "[" * 100_000, 3, None, [], [True]])
def test_shapes_of_an_answer_that_are_none_are_refused(shape):
    header, body, length = answered()
    if shape is not None:
        header["outputs"][0]["parameters"]["shape"] = shape
    else:
        del header["outputs"][0]["parameters"]["shape"]
    with pytest.raises(WireError, match="shape must be a list of whole numbers above 0"):
        parse_response(*pack(header, [body[length:]]), [Ask(k=4, precision="int8")])


def test_errors_are_read_whatever_their_form():
    assert parse_error(json.dumps(build_error("too large")).encode()) == "too large"
    assert "without a message" in parse_error(b"<html>") and "without a message" in parse_error(b'{"error": 3}')


def test_a_card_goes_through_the_protocols_metadata():
    metadata = json.loads(json.dumps(CARD.to_metadata()))
    assert metadata["versions"] == ["1"] and re.fullmatch("[a-z0-9]+_[a-z0-9]+", metadata["platform"])
    assert ModelCard.from_metadata(metadata) == CARD
    assert {o["name"]: o["shape"] for o in metadata["outputs"]} == {
        **{f"sum.{k}": [-1, 17, 48] for k in range(5)},
        "last": [-1, 17, 48],
        "token": [-1, 48],
        "stack": [-1, 5, 17, 48],
    }
    with pytest.raises(WireError, match="nothing of digest"):
        ModelCard.from_metadata({"parameters": {k: v for k, v in metadata["parameters"].items() if k != "digest"}})
    with pytest.raises(WireError, match="fingerprint"):
        ModelCard.from_metadata({"parameters": {**metadata["parameters"], "width": 64}})
    for wrong in ({"image_size": [3]}, {"grid": 4}, {"grid": [0, 4]}, {"width": "48"}):
        with pytest.raises(WireError, match="must be"):
            ModelCard.from_metadata({"parameters": {**metadata["parameters"], **wrong}})


@pytest.mark.parametrize(
    "change", [{"digest": "0"}, {"mean": (0.4, 0.5, 0.5)}, {"transform": "photo"}, {"grid": (2, 8)}, {"dtype": "bf16"}]
)
def test_a_fingerprint_changes_with_all_that_changes_features(change):
    assert replace(CARD, **change).fingerprint != CARD.fingerprint
    assert replace(CARD, precisions=("fp32",)).fingerprint == CARD.fingerprint


def test_a_card_refuses_what_its_backbone_does_not_offer():
    with pytest.raises(ValueError, match="has 4 blocks, so k is at most that; got 5"):
        CARD.shape(Ask(k=5))
    with pytest.raises(ValueError, match="does not offer gather stack; it offers sum, last"):
        replace(CARD, gathers=("sum", "last")).shape(Ask(gather="stack"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": None}, "k is for gather='sum', which needs it; got gather='sum', k=None"),
        ({"k": -1}, "k must be at least 0, got -1"),
        ({"gather": "last", "k": 3}, "k is for gather='sum', which needs it; got gather='last', k=3"),
        ({"gather": "mean"}, "unknown gather 'mean'; known: sum, last, token, stack"),
        ({"k": 1, "precision": "int2"}, "unknown precision 'int2'"),
        ({"k": 1, "compression": "gzip"}, "unknown compression 'gzip'"),
    ],
)
def test_wrong_asks_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Ask(**wrong)


def test_a_body_without_tensors_is_a_header():
    assert unpack(b'{"live": true}') == ({"live": True}, [])
