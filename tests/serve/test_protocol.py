"""The protocol's routes and Triton's extensions, as a client that knows nothing of us uses them."""

import asyncio
import base64
import json

import pytest

from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request
from sidetune.wire.message import HEADER_LENGTH, pack

SUM = Ask(k=4)
PLACES = ("", "/ready", "/config", "/stats")


def ask(picture, **more):
    """A request in JSON for one picture."""
    data = [base64.b64encode(picture(1)).decode()]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}], **more}


def test_server_metadata_is_where_the_protocols_openapi_file_has_it_too(talk):
    async def work(client):
        return [(await client.get(path)).json() for path in ("/v2", "/v2/")]

    without, with_slash = talk(work)
    assert without == with_slash and {"name", "version", "extensions"} <= set(without)


def test_version_1_is_the_model_itself_under_every_route(talk, picture):
    async def work(client):
        pairs = [
            [await client.get(f"/v2/models/tiny{version}{place}") for version in ("", "/versions/1")]
            for place in PLACES
        ]
        body = ask(picture, outputs=[{"name": "token"}])
        return pairs, [
            await client.http.post(f"/v2/models/tiny{version}/infer", json=body) for version in ("", "/versions/1")
        ]

    pairs, (plain, versioned) = talk(work)
    assert all(a.status_code == b.status_code == 200 and a.json() == b.json() for a, b in pairs)
    assert pairs[0][0].json()["versions"] == ["1"] and pairs[1][0].json() == {"name": "tiny", "ready": True}
    assert versioned.json() == plain.json() and plain.json()["model_version"] == "1"


@pytest.mark.parametrize("version", ["2", "0", "01", "-1", "latest", "1.0", "x" * 500])
def test_another_version_is_not_found_and_those_there_are_are_named(talk, picture, version):
    async def work(client):
        got = [await client.get(f"/v2/models/tiny/versions/{version}{place}") for place in PLACES]
        return [*got, await client.http.post(f"/v2/models/tiny/versions/{version}/infer", json=ask(picture))]

    for answer in talk(work):
        assert answer.status_code == 404 and len(answer.text) < 200
        assert answer.json()["error"] == f"tiny has no version {version[:80]!r}; it has version 1 alone"


def test_what_a_request_says_of_precision_holds_where_it_names_no_output(talk, picture):
    async def work(client):
        outputs = {"outputs": [{"name": "sum.4"}]}
        parameters = {"precision": "int8", "compression": "zstd", "binary_data_output": True}
        return [
            await client.post(*pack(ask(picture, parameters=parameters, **more), [])) for more in ({}, outputs)
        ], await client.http.post("/v2/models/tiny/infer", json=ask(picture, parameters={"precision": "int3"}))

    (without, named), refused = talk(work)
    assert without.content == named.content and without.status_code == 200
    (output,) = json.loads(without.content[: int(without.headers[HEADER_LENGTH])])["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("sum.4", "BYTES", [1])
    assert output["parameters"]["precision"] == "int8" and output["parameters"]["compression"] == "zstd"
    assert refused.status_code == 400 and "unknown precision 'int3'" in refused.json()["error"]


def test_in_json_a_precision_that_has_no_form_there_is_refused_without_outputs_too(talk, picture):
    answer = talk(lambda c: c.http.post("/v2/models/tiny/infer", json=ask(picture, parameters={"precision": "int8"})))
    assert answer.status_code == 400 and "binary_data: true" in answer.json()["error"]


def test_a_device_of_version_0_1_gets_shapes_as_it_reads_them(talk, picture):
    """Its request, as it wrote it."""
    file = picture(1)
    tensor = len(file).to_bytes(4, "little") + file
    text = (
        b'{"parameters":{"binary_data_output":true,"fingerprint":"%s"},"inputs":[{"name":"image","datatype":"BYTES",'
        b'"shape":[1],"parameters":{"binary_data_size":%d}}],"outputs":[{"name":"sum.4","parameters":'
        b'{"precision":"int8","compression":"none"}}]}'
    )

    async def work(client):
        fingerprint = (await client.get("/v2/models/tiny")).json()["parameters"]["fingerprint"]
        said = text % (fingerprint.encode(), len(tensor))
        return await client.post(said + tensor, len(said))

    answer = talk(work)
    (output,) = json.loads(answer.content[: int(answer.headers[HEADER_LENGTH])])["outputs"]
    assert output["parameters"]["shape"] == [17, 48] and output["shape"] == [1, 17 * 48 + 2 * (17 + 2 * 48)]


def test_the_configuration_agrees_with_the_metadata(talk):
    """Triton's: dims are a tensor's shape without its batch, data types have other names."""

    async def work(client):
        return [(await client.get(f"/v2/models/tiny{place}")).json() for place in ("", "/config")]

    metadata, config = talk(work, max_images=5, max_batch=3, max_delay=0.002)
    types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
    for told, shown in ((metadata["inputs"], config["input"]), (metadata["outputs"], config["output"])):
        assert [(t["name"], types[t["datatype"]], t["shape"]) for t in told] == [
            (t["name"], t["data_type"], [-1, *t["dims"]]) for t in shown
        ]
    assert (config["name"], config["platform"]) == ("tiny", metadata["platform"])
    assert config["max_batch_size"] == 5 and config["version_policy"] == {"specific": {"versions": [1]}}
    assert config["dynamic_batching"] == {"preferred_batch_size": [3], "max_queue_delay_microseconds": 2000}
    assert config["model_transaction_policy"] == {"decoupled": False}


def test_the_repository_lists_what_is_served(talk, worker_of, vit):
    async def work(client):
        bodies = (b"", b"{}", b'{"ready": true}', b'{"ready": null}', b'{"ready": false}')
        good = [await client.http.post("/v2/repository/index", content=body) for body in bodies]
        wrong = (b"[]", b'{"ready": 1}', b"{" * 10, b" " * 100_000)
        bad = [await client.http.post("/v2/repository/index", content=body) for body in wrong]
        return good, bad, await client.get("/v2/repository/index")

    good, bad, got = talk(work, worker_of(vit, "one"), worker_of(vit, "two"))
    expected = [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in ("one", "two")]
    assert all(answer.status_code == 200 and answer.json() == expected for answer in good)
    assert [answer.status_code for answer in bad] == [400, 400, 400, 413] and got.status_code == 405
    assert all(list(answer.json()) == ["error"] for answer in bad)


def test_models_are_not_loaded_or_unloaded_and_that_is_said(talk):
    async def work(client):
        return [await client.http.post(f"/v2/repository/models/tiny/{verb}") for verb in ("load", "unload")]

    for answer in talk(work):
        assert answer.status_code == 400 and "named when the service starts" in answer.json()["error"]


def test_statistics_add_up(talk, picture, tmp_path):
    async def work(client):
        await client.infer([picture(1), picture(2)], [SUM, Ask(gather="last")])
        await client.infer([picture(1)], [SUM])
        await client.post(*build_request([b"no image"], [SUM]))
        await client.post(b"{")
        return [(await client.get(f"/v2/models/{place}")).json() for place in ("tiny/stats", "stats")]

    of_one, of_all = talk(work, cache=tmp_path)
    assert of_one == of_all
    (told,) = of_one["model_stats"]
    counts = {what: spent["count"] for what, spent in told["inference_stats"].items()}
    steps = ("queue", "compute_input", "compute_infer", "compute_output")
    assert counts == {"success": 2, "fail": 2, **dict.fromkeys(steps, 2), "cache_hit": 1, "cache_miss": 4}
    assert (told["name"], told["version"], told["inference_count"]) == ("tiny", "1", 2)
    assert told["execution_count"] == sum(batch["compute_infer"]["count"] for batch in told["batch_stats"]) >= 1
    assert sum(b["batch_size"] * b["compute_infer"]["count"] for b in told["batch_stats"]) == 2
    spent = {what: told["inference_stats"][what]["ns"] for what in told["inference_stats"]}
    assert all(type(ns) is int and ns >= 0 for ns in spent.values())
    assert spent["success"] > spent["compute_infer"] / 2 > 0
    assert told["last_inference"] > 1_600_000_000_000  # milliseconds


def test_statistics_of_several_models_are_told_apart(talk, picture, worker_of, vit):
    async def work(client):
        await asyncio.gather(*(client.infer([picture(i)], [SUM], model="two") for i in range(3)))
        return [(await client.get(f"/v2/models/{place}stats")).json()["model_stats"] for place in ("", "one/", "two/")]

    every, one, two = talk(work, worker_of(vit, "one"), worker_of(vit, "two"))
    assert every == one + two and [s["inference_count"] for s in every] == [0, 3]
    assert one[0]["last_inference"] == 0 and one[0]["batch_stats"] == []


def test_a_request_with_a_key_alone_reads_them(talk, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text('[me]\nkey = "a-key-for-the-tests-0123"\n')

    async def work(client):
        places = ("/v2/", "/v2/models/stats", *(f"/v2/models/tiny/versions/1{place}" for place in PLACES))
        got = [await client.get(place) for place in places]
        return [*got, await client.http.post("/v2/repository/index")]

    assert {answer.status_code for answer in talk(work, keys=keys)} == {401}
