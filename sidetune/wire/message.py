"""A message of the Open Inference Protocol over REST: a JSON header, then tensors as raw little-endian bytes.

Tensors with a `binary_data_size` in their parameters lie behind the header in the order in which it names them; the
HTTP header `Inference-Header-Content-Length` says where they begin. Without it the whole body is JSON.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sidetune.errors import shown

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_HEADER = 4 * 2**20
"""Bytes of JSON."""
MAX_VALUES, MAX_OBJECTS, MAX_TENSORS = 2**18, 2**12, 256
"""In the JSON of a message: a picture of 224 x 224 pixels in nested lists is 200,928 values."""
MAX_DIMENSIONS, MAX_COUNT = 32, 2**53
"""Of a shape, and what counts stay below: beyond, not all of JSON's readers are exact."""
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
ELEMENT = struct.Struct("<I")
SIZES = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2,
    "UINT32": 4, "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip
"""By datatype: bytes of an element. BYTES elements carry their length in front of them."""


class WireError(ValueError):
    """A message that the protocol, or this library's use of it, does not allow."""


class TooLarge(WireError):
    """A message with more of something than is read."""


def pack(header: Mapping[str, Any], tensors: Sequence[bytes | memoryview]) -> tuple[bytes, int]:
    """A header, whose tensors already name their `binary_data_size`, and their bytes -> body, length of its JSON."""
    head = compact(header)
    return b"".join([head, *tensors]), len(head)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def unpack(body: bytes | memoryview, header_length: int | None = None) -> tuple[dict[str, Any], list[memoryview]]:
    """A body -> its header and, in order, the bytes of the inputs (of the outputs, in a response) that are binary.

    Raises WireError unless the JSON is an object and the sizes it names are exactly the bytes that follow it.
    """
    view = memoryview(body)
    length = len(view) if header_length is None else header_length
    if not len(view):
        raise WireError("the body is empty, expected a JSON header")
    if not 0 < length <= len(view):
        raise WireError(f"{HEADER_LENGTH} is {length}, the body has {len(view)} bytes")
    if length > MAX_HEADER:
        raise TooLarge(f"the JSON has {length} bytes, at most {MAX_HEADER} are allowed; send what is large as bytes")
    try:
        header = read_json(view[:length])
    except TooLarge:
        raise
    except WireError as e:
        hint = f" (without {HEADER_LENGTH} the whole body is JSON)" if header_length is None else ""
        raise WireError(f"{e}{hint}") from None
    rest, tensors = view[length:], []
    for tensor in named(header, "inputs" if "inputs" in header else "outputs"):
        if (size := parameters(tensor).get("binary_data_size")) is None:
            continue
        if not is_count(size):
            raise WireError(f"{about(tensor)}: binary_data_size must be a whole number, got {shown(size)}")
        if size > len(rest):
            raise WireError(f"{about(tensor)}: binary_data_size is {size}, {len(rest)} bytes are left of the body")
        tensors.append(rest[:size])
        rest = rest[size:]
    if len(rest):
        raise WireError(f"{len(rest)} bytes of the body belong to no tensor: no binary_data_size counts them")
    return header, tensors


def read_json(data: bytes | memoryview) -> dict[str, Any]:
    """A JSON object; raises WireError for anything else, for numbers that JSON does not have, for repeated names and
    for text that is none; TooLarge, before anything is read, where there is too much in it.

    A part that is null counts as left out: many clients write the optional ones that way.
    """
    raw = bytes(data)
    check_amount(raw)
    try:
        text = raw.decode()
        value = json.loads(text, parse_constant=no_constant, object_pairs_hook=as_object)
        if HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise WireError("a string holds one half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as e:  # JSON and UTF-8 errors are ValueErrors; WireError too
        raise WireError(f"the header is no JSON that can be read: {e}") from None
    if not isinstance(value, dict):
        raise WireError(f"the header is a JSON {type(value).__name__}, expected an object")
    return value


def check_amount(data: bytes) -> None:
    """Raises TooLarge for more JSON values than a request needs: what Python makes of them is many times larger.

    Counts the signs in front of values, those within strings too.
    """
    objects = data.count(b"{")
    values = objects + data.count(b"[") + data.count(b",")
    if values > MAX_VALUES or objects > MAX_OBJECTS:
        raise TooLarge(
            f"the JSON has about {values} values, {objects} of them objects; at most {MAX_VALUES} and {MAX_OBJECTS} "
            "are allowed; send what is large as bytes"
        )


def no_constant(name: str) -> float:
    raise WireError(f"{name} is no number of JSON's")


def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise WireError("a name stands twice in one object")
    return {name: value for name, value in pairs if value is not None}


def named(header: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of tensors under `key`, each an object with a name."""
    tensors = header.get(key, [])
    if not isinstance(tensors, list):
        raise WireError(f"{key} must be a list of objects")
    if len(tensors) > MAX_TENSORS:
        raise TooLarge(f"{len(tensors)} {key} in one message; at most {MAX_TENSORS}")
    if not all(isinstance(t, dict) for t in tensors):
        raise WireError(f"{key} must be a list of objects")
    for tensor in tensors:
        if not isinstance(tensor.get("name"), str):
            raise WireError(f"each of {key} needs a name, a string")
    if len({t["name"] for t in tensors}) < len(tensors):
        raise WireError(f"a name stands twice in {key}")
    return tensors


def parameters(owner: Mapping[str, Any]) -> dict[str, Any]:
    value = owner.get("parameters", {})
    if not isinstance(value, dict):
        raise WireError("parameters must be an object")
    return value


def about(tensor: Mapping[str, Any]) -> str:
    return f"tensor {shown(tensor['name'])}"


def is_count(value: object) -> bool:
    """A whole number of 0 or more, as JSON has them; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT


def shape_of(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(is_count(n) and n for n in shape):
        raise WireError(
            f"{about(tensor)}: shape must be a list of whole numbers above 0 (and below 2^53), got {shown(shape)}"
        )
    if len(shape) > MAX_DIMENSIONS:
        raise WireError(f"{about(tensor)}: the shape has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are known")
    return tuple(shape)


def check_size(tensor: Mapping[str, Any], data: memoryview) -> None:
    """Raises WireError unless a tensor of fixed-size elements has as many bytes as its shape and datatype say."""
    shape, datatype = shape_of(tensor), tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in SIZES:
        raise WireError(f"{about(tensor)}: unknown datatype {shown(datatype)}; known: BYTES, {', '.join(SIZES)}")
    expected = math.prod(shape) * SIZES[datatype]
    if len(data) != expected:
        raise WireError(
            f"{about(tensor)}: {datatype} of shape {shown(list(shape))} is {expected} bytes, got {len(data)}"
        )


def join_elements(elements: Iterable[bytes | memoryview]) -> bytes:
    """BYTES elements -> one tensor: each behind its length, four bytes little-endian."""
    return b"".join(part for e in elements for part in (ELEMENT.pack(len(e)), e))


def split_elements(data: memoryview, count: int) -> list[memoryview]:
    """A BYTES tensor -> its elements; raises WireError unless they are `count` and fill it exactly."""
    elements: list[memoryview] = []
    while len(data) and len(elements) < count:
        if len(data) < ELEMENT.size:
            raise WireError(f"BYTES element {len(elements)} is cut off within its length")
        (size,) = ELEMENT.unpack_from(data)
        if size > len(data) - ELEMENT.size:
            raise WireError(
                f"BYTES element {len(elements)} claims {size} bytes, {len(data) - ELEMENT.size} are left of its tensor"
            )
        elements.append(data[ELEMENT.size : ELEMENT.size + size])
        data = data[ELEMENT.size + size :]
    if len(elements) != count or len(data):
        raise WireError(
            f"the shape says {count} BYTES elements; the tensor holds {len(elements)} and {len(data)} bytes behind them"
        )
    return elements
