"""A client written from docs/wire.md alone, with nothing of ours."""

import asyncio
import json
import struct

import numpy as np

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
