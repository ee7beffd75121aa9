"""A client written from docs/wire.md alone, with nothing of ours; and one that others wrote."""

import asyncio
import json
import struct

import numpy as np
import pytest

from sidetune.cli import pair
from sidetune.wire.ask import Ask


def unpack(row, tokens, channels, precision):
    """The drawing of docs/wire.md, number by number."""
    products = min(16, tokens // 4, channels // 4) if precision == "int4" else 0
    half = struct.unpack_from(f"<{2 * channels + tokens + products}e", row)
    m, a, s, p = half[:channels], half[channels : 2 * channels], half[2 * channels :], half[2 * channels + tokens :]
    codes = row[2 * len(half) :]

    def number(start, length, r, i):
        """Number i of row r, of rows of so many that begin at a byte."""
        if precision == "int8":
            return struct.unpack_from("b", codes, start + r * length + i)[0]
        byte = codes[start + r * ((length + 1) // 2) + i // 2]
        return (byte >> 4 if i % 2 else byte & 15) - 7.5

    v_start = products * ((tokens + 1) // 2)
    q_start = v_start + products * ((channels + 1) // 2)
    x = np.empty((tokens, channels))
    for t in range(tokens):
        for c in range(channels):
            low = sum(p[j] * number(0, tokens, j, t) * number(v_start, channels, j, c) for j in range(products))
            x[t, c] = m[c] + a[c] * (s[t] * number(q_start, channels, t, c) + low)
    return x


def test_a_stranger_reads_the_same_features(talk, picture):
    files = [picture(1), picture(2, kind="JPEG")]
    tensor = b"".join(struct.pack("<I", len(f)) + f for f in files)
    header = {
        "id": "any",
        "parameters": {"binary_data_output": True},
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(tensor)}}
        ],
        "outputs": [
            {"name": "sum.4", "parameters": {"precision": "int4"}},
            {"name": "sum.2", "parameters": {"precision": "int8"}},
        ],
    }
    text = json.dumps(header).encode()

    async def work(client):
        ours = client.infer(files, [Ask(k=4, precision="int4"), Ask(k=2, precision="int8")])
        return await asyncio.gather(client.post(text + tensor, len(text)), ours)

    answer, ours = talk(work)
    length = int(answer.headers["Inference-Header-Content-Length"])
    said, rest = json.loads(answer.content[:length]), answer.content[length:]
    for output in said["outputs"]:
        size, (tokens, channels) = output["parameters"]["binary_data_size"], json.loads(output["parameters"]["shape"])
        batch, row = output["shape"]
        data, rest = rest[:size], rest[size:]
        for i in range(batch):
            image = data[i * row : (i + 1) * row]
            x = unpack(image, tokens, channels, output["parameters"]["precision"])
            assert np.allclose(x, ours[output["name"]][i], rtol=1e-5, atol=1e-5)
    assert not rest


def test_tritons_own_client_finds_what_it_looks_for(weights, picture):
    """Where it is installed: its requests, compressed bodies and extensions, over a real connection."""
    triton = pytest.importorskip("tritonclient.http")
    refusal = pytest.importorskip("tritonclient.utils").InferenceServerException
    files = np.array([picture(1), picture(2)], dtype=object)

    def asked(**more):
        image = triton.InferInput("image", [2], "BYTES")
        image.set_data_from_numpy(files)
        return client.infer("small", [image], **more)

    network = ("--backbone", weights, "--architecture", "vit_tiny_patch16_224", "--precision", "fp32")
    with pair.service(*network) as (_, url), triton.InferenceServerClient(url.removeprefix("http://")) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("small", "1")
        assert client.get_model_metadata("small", "1") == client.get_model_metadata("small")
        assert client.get_model_config("small", "1")["max_batch_size"] == 64
        assert [m["state"] for m in client.get_model_repository_index()] == ["READY"]
        plain = asked().as_numpy("sum.12")
        assert plain.shape == (2, 197, 192) and plain.dtype == np.float32
        for coding in ("gzip", "deflate"):
            assert np.array_equal(asked(request_compression_algorithm=coding).as_numpy("sum.12"), plain)
        int8 = asked(parameters={"precision": "int8"}, model_version="1", request_id="7")
        assert int8.as_numpy("sum.12").dtype == np.uint8 and int8.get_response()["id"] == "7"
        for wrong, status in (
            ({"parameters": {"precision": "int3"}}, "400"),
            ({"outputs": [triton.InferRequestedOutput("token", class_count=3)]}, "400"),
            ({"model_version": "2"}, "404"),
        ):
            with pytest.raises(refusal) as refused:
                asked(**wrong)
            assert refused.value.status() == status
        stats = client.get_inference_statistics("small", "1")["model_stats"][0]
        assert stats["inference_stats"]["success"]["count"] == 4 and stats["inference_stats"]["fail"]["count"] == 2
