"""Requests for features and their answers, built and read by both sides."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidetune.errors import shown
from sidetune.wire.ask import IMAGE, Ask
from sidetune.wire.codec import FLOATS, Array, Bytes, decode, num_bytes
from sidetune.wire.compression import compress, decompress
from sidetune.wire.message import (
    TooLarge,
    WireError,
    check_size,
    compact,
    join_elements,
    named,
    pack,
    parameters,
    shape_of,
    split_elements,
    unpack,
)
from sidetune.wire.metadata import VERSION

Images = Sequence[bytes | memoryview] | NDArray[np.uint8]
DATATYPES = {"fp32": "FP32", "fp16": "FP16", "int8": "UINT8", "int4": "UINT8"}
"""By precision: how features travel where they are not compressed; then they are BYTES."""
UNMET = {
    "classification": "features have no classes; ask for the features and classify them yourself",
    **dict.fromkeys(
        ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"),
        "tensors travel in the request and in the answer",
    ),
}
"""Parameters of the protocol's extensions that would change the answer's form, and why they are refused."""
FIRST_DEVICE = ({"binary_data_output", "fingerprint"}, {"precision", "compression"})
"""What version 0.1 of the device writes into the parameters of a request, and of each output."""

PIECE = 4096
"""Numbers that are written to JSON at once."""
MAX_ERROR, MAX_ID = 4096, 1024
"""Characters."""


@dataclass(frozen=True, kw_only=True)
class Request:
    images: Images
    """Image files, or pixels (batch, height, width, 3)."""
    asks: tuple[Ask, ...]
    """Empty: what the card has for a default, in `precision` and `compression`."""
    binary: tuple[bool, ...] = ()
    """By ask, or of the default: whether it is answered in bytes; otherwise in JSON."""
    precision: str = "fp32"
    compression: str = "none"
    of_first_device: bool = False
    """Whether it is written as version 0.1 of the device writes it."""
    fingerprint: str | None = None
    """Of the card that the caller trained on: a service with another refuses."""
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Features of a batch as they travel, by image: the codec's bytes, compressed where the ask says so."""

    ask: Ask
    shape: tuple[int, ...]
    """Of one image's features, decoded."""
    data: Sequence[bytes | memoryview]

    def features(self, image: int, out: Array | None = None) -> Array:
        """Decode one image's features; raises WireError for bytes that cannot be these."""
        data = self.data[image]
        size = num_bytes(self.shape, self.ask.precision)
        if self.ask.compression == "zstd":
            data = decompress(data, size)
        if len(data) != size:
            raise WireError(f"{self.ask.name} of shape {self.shape} is {size} bytes, got {len(data)}")
        return decode(data, self.shape, self.ask.precision, out)


@dataclass(frozen=True, kw_only=True)
class Response:
    model: str
    answers: Mapping[str, Answer]
    """By output name."""
    fingerprint: str
    id: str | None = None


def pack_image(data: Bytes, ask: Ask) -> bytes | memoryview:
    """The codec's bytes of one image as they travel under this ask."""
    return compress(data.data) if ask.compression == "zstd" else data.data


def build_request(
    images: Images, asks: Sequence[Ask], fingerprint: str | None = None, id: str | None = None
) -> tuple[bytes, int]:
    """A request for binary outputs -> body, length of its JSON."""
    if isinstance(images, np.ndarray):
        data = [np.ascontiguousarray(images).data.cast("B")] if images.size else [b""]
        what: dict[str, Any] = {"datatype": "UINT8", "shape": list(images.shape)}
    else:
        data = [join_elements(images)]
        what = {"datatype": "BYTES", "shape": [len(images)]}
    header: dict[str, Any] = {} if id is None else {"id": id}
    header["parameters"] = {} if fingerprint is None else {"fingerprint": fingerprint}
    header["inputs"] = [{"name": IMAGE, **what, "parameters": {"binary_data_size": len(data[0])}}]
    header["outputs"] = [
        {"name": a.name, "parameters": {"binary_data": True, "precision": a.precision, "compression": a.compression}}
        for a in asks
    ]
    return pack(header, data)


def parse_request(body: bytes | memoryview, header_length: int | None = None, max_images: int | None = None) -> Request:
    """Read a request without copying its images.

    Raises WireError for one that is not well formed, TooLarge for more images than are allowed, before they are read.
    """
    header, tensors = unpack(body, header_length)
    inputs = named(header, "inputs")
    if [t["name"] for t in inputs] != [IMAGE]:
        raise WireError(f"expected one input named {IMAGE!r}, got {shown([t['name'] for t in inputs])}")
    common = parameters(header)
    outputs = named(header, "outputs")
    check_met(common, "the request's parameters")
    for tensor in (*inputs, *outputs):
        check_met(parameters(tensor), shown(tensor["name"]))
    default = read_ask("last", common, "the request's parameters")
    asks = tuple(read_ask(t["name"], {**common, **parameters(t)}, f"output {shown(t['name'])}") for t in outputs)
    chosen = [parameters(t).get("binary_data", common.get("binary_data_output", False)) for t in outputs or [{}]]
    if not all(isinstance(b, bool) for b in chosen):
        raise WireError("binary_data and binary_data_output must be true or false")
    id = text_or_none(header, "id")
    if id is not None and len(id) > MAX_ID:
        raise WireError(f"the id has {len(id)} characters, at most {MAX_ID} are allowed")
    return Request(
        images=read_images(inputs[0], tensors[0] if tensors else None, max_images),
        asks=asks,
        binary=tuple(chosen),
        precision=default.precision,
        compression=default.compression,
        of_first_device=is_of_first_device(common, outputs),
        fingerprint=text_or_none(common, "fingerprint"),
        id=id,
    )


def read_ask(name: str, said: Mapping[str, Any], where: str) -> Ask:
    try:
        return Ask.named(name, said.get("precision", "fp32"), said.get("compression", "none"))
    except (ValueError, TypeError) as e:
        raise WireError(f"{where}: {e}") from None


def check_met(said: Mapping[str, Any], where: str) -> None:
    """Raises WireError for parameters that would not be met; one of 0 asks for nothing."""
    for name, why in UNMET.items():
        if said.get(name):
            raise WireError(f"{where}: {name} is not offered here; {why}")


def is_of_first_device(common: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> bool:
    of_request, of_output = FIRST_DEVICE
    return bool(outputs) and set(common) == of_request and all(set(parameters(t)) == of_output for t in outputs)


def read_images(tensor: Mapping[str, Any], data: memoryview | None, most: int | None) -> Images:
    shape, datatype = shape_of(tensor), tensor.get("datatype")
    if datatype not in ("BYTES", "UINT8"):
        raise WireError(f"input {IMAGE!r} must be BYTES (image files) or UINT8 (pixels), got {shown(datatype)}")
    if most is not None and shape[0] > most:
        raise TooLarge(f"{shape[0]} images in one request; at most {most}")
    if (data is None) == ("data" not in tensor):
        raise WireError(f"input {IMAGE!r} needs its data either behind the header or in it as `data`")
    count = shape[0]
    if datatype == "BYTES":
        if shape not in ((count,), (count, 1)):
            raise WireError(f"image files have shape [batch] or [batch, 1], got {shown(list(shape))}")
        return split_elements(data, count) if data is not None else read_base64(tensor["data"], count)
    if len(shape) != 4 or shape[3] != 3:
        raise WireError(f"pixels have shape [batch, height, width, 3], got {shown(list(shape))}")
    if data is None:
        return read_numbers(tensor["data"], shape)
    check_size(tensor, data)
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_base64(data: object, count: int) -> list[bytes]:
    elements = flat(data)
    if len(elements) != count or not all(isinstance(e, str) for e in elements):
        raise WireError(f"expected a list of {count} image files in base64")
    try:
        return [base64.b64decode(e, validate=True) for e in elements]
    except ValueError as e:
        raise WireError(f"an image file is no base64: {e}") from None


def read_numbers(data: object, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    numbers = flat(data)
    if len(numbers) != math.prod(shape) or not all(type(n) is int and 0 <= n <= 255 for n in numbers):
        raise WireError(f"expected {math.prod(shape)} whole numbers of 0..255 for pixels of shape {list(shape)}")
    return np.array(numbers, np.uint8).reshape(shape)


def flat(data: object) -> list[Any]:
    """The elements of a list, or of lists of equal lengths in a list."""
    if not isinstance(data, list):
        return []
    try:
        return np.array(data, dtype=object).ravel().tolist()
    except ValueError:  # too deep
        return []


def build_response(
    model: str,
    answers: Sequence[Answer],
    binary: Sequence[bool],
    fingerprint: str,
    id: str | None = None,
    *,
    to_first_device: bool = False,
) -> tuple[bytes, int | None]:
    """Answers -> body, length of its JSON (None if it is all JSON).

    The protocol's responses have an id, its parameters no lists; version 0.1 of the device reads shapes in lists alone.
    """
    header: dict[str, Any] = {"model_name": model, "model_version": VERSION, "id": id or ""}
    header["parameters"] = {"fingerprint": fingerprint}
    outputs: list[bytes] = []
    tensors: list[bytes | memoryview] = []
    for answer, in_bytes in zip(answers, binary, strict=True):
        ask, batch = answer.ask, len(answer.data)
        said: dict[str, Any] = {"precision": ask.precision, "compression": ask.compression}
        output: dict[str, Any] = {"name": ask.name, **travels(ask, answer.shape, batch)}
        said["shape"] = list(answer.shape) if to_first_device else json.dumps(answer.shape)
        if in_bytes:
            parts = [memoryview(d) for d in answer.data]
            parts = [memoryview(join_elements(parts))] if ask.compression == "zstd" else parts
            said["binary_data_size"] = sum(len(p) for p in parts)
            tensors += parts
        text = compact({**output, "parameters": said})
        outputs.append(text if in_bytes else text[:-1] + b',"data":[' + json_numbers(answer) + b"]}")
    head = compact(header)[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    return b"".join([head, *tensors]), len(head) if any(binary) else None


def travels(ask: Ask, shape: tuple[int, ...], batch: int) -> dict[str, Any]:
    """Datatype and shape of an output."""
    if ask.compression == "zstd":
        return {"datatype": "BYTES", "shape": [batch]}
    if ask.precision in FLOATS:
        return {"datatype": DATATYPES[ask.precision], "shape": [batch, *shape]}
    return {"datatype": DATATYPES[ask.precision], "shape": [batch, num_bytes(shape, ask.precision)]}


def check_json(ask: Ask) -> None:
    """Raises WireError for an ask that JSON has no form for."""
    if ask.precision != "fp32" or ask.compression != "none":
        raise WireError(
            f"output {ask.name!r} in {ask.precision}, compression {ask.compression}, has no form in JSON; "
            "ask for it with binary_data: true"
        )


def json_numbers(answer: Answer) -> bytes:
    """All images' numbers with commas between; written piece by piece, so that other threads have their turn."""
    check_json(answer.ask)
    numbers = (np.frombuffer(data, "<f4") for data in answer.data)
    pieces = (of_image[i : i + PIECE] for of_image in numbers for i in range(0, len(of_image), PIECE))
    return b",".join(compact(piece.tolist())[1:-1] for piece in pieces)


def parse_response(body: bytes | memoryview, header_length: int | None, asks: Sequence[Ask]) -> Response:
    """Read the answer to these asks without copying; raises WireError if it is not one."""
    header, tensors = unpack(body, header_length)
    outputs = {t["name"]: t for t in named(header, "outputs")}
    if list(outputs) != [a.name for a in asks] or len(tensors) != len(asks):
        raise WireError(f"asked for {', '.join(a.name for a in asks)} in bytes, got {', '.join(outputs) or 'nothing'}")
    answers = {a.name: read_answer(outputs[a.name], data, a) for a, data in zip(asks, tensors, strict=True)}
    fingerprint = text_or_none(parameters(header), "fingerprint")
    model = text_or_none(header, "model_name")
    if fingerprint is None or model is None:
        raise WireError("the response names no model_name, or no fingerprint of it")
    return Response(model=model, answers=answers, fingerprint=fingerprint, id=text_or_none(header, "id"))


def read_answer(tensor: Mapping[str, Any], data: memoryview, ask: Ask) -> Answer:
    batch, shape = shape_of(tensor)[0], shape_of({"name": ask.name, "shape": said_shape(parameters(tensor))})
    expected = travels(ask, shape, batch)
    if {k: tensor.get(k) for k in expected} != expected:
        raise WireError(f"output {ask.name!r} should be {expected}, got {tensor.get('datatype')} {tensor.get('shape')}")
    if ask.compression == "zstd":
        return Answer(ask=ask, shape=shape, data=split_elements(data, batch))
    check_size(tensor, data)
    size = len(data) // batch
    return Answer(ask=ask, shape=shape, data=[data[i : i + size] for i in range(0, len(data), size)])


def said_shape(said: Mapping[str, Any]) -> object:
    """As later services write it, or as version 0.1 did."""
    shape = said.get("shape")
    try:
        return json.loads(shape) if isinstance(shape, str) else shape
    except (ValueError, RecursionError):
        return shape


def build_error(message: str) -> dict[str, str]:
    """What is no character, or too long to read, does not stand in it."""
    text = message.encode("utf-8", "replace").decode()
    return {"error": text if len(text) <= MAX_ERROR else f"{text[:MAX_ERROR]} ..."}


def parse_error(body: bytes) -> str:
    """What a service says went wrong, or what little can be said of a body in another form."""
    try:
        said = unpack(body)[0].get("error")
    except WireError:
        said = None
    return said if isinstance(said, str) else f"an error without a message ({len(body)} bytes)"


def text_or_none(owner: Mapping[str, Any], key: str) -> str | None:
    value = owner.get(key)
    if value is not None and not isinstance(value, str):
        raise WireError(f"{key} must be a string, got {shown(value)}")
    return value
