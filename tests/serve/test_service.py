"""What a service answers: the features the backbone has, to everyone who asks at once."""

import asyncio
import re
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import sidetune
from sidetune.data.transforms import Transform
from sidetune.serve.worker import Worker
from sidetune.wire.ask import Ask
from sidetune.wire.codec import PRECISIONS
from sidetune.wire.infer import build_request
from sidetune.wire.metadata import ModelCard

SUM = Ask(k=4)


def taps(backbone, pixels, size, preset="vtab"):
    """z_0 .. z_N of one picture, computed block by block, and the backbone's own pooled feature."""
    card = backbone.card
    transform = Transform(preset=preset, image_size=size, mean=card.mean, std=card.std).evaluation()
    with torch.no_grad():
        z = backbone.stem(transform(Image.fromarray(pixels))[None])
        out = [z]
        for block in backbone.blocks.values():
            out.append(z := block(z))
        return [t[0].numpy() for t in out], backbone.pools["token"](z)[0].numpy()


def test_every_gather_is_what_the_blocks_give(vit, talk):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    asks = [Ask(k=0), Ask(k=2), Ask(k=4), Ask(gather="last"), Ask(gather="token"), Ask(gather="stack")]
    got = talk(lambda c: c.infer(pixels[None], asks))
    z, token = taps(vit, pixels, (32, 32))
    for k in (0, 2, 4):
        assert np.allclose(got[f"sum.{k}"][0], sum(z[: k + 1]), atol=1e-4)
    assert np.allclose(got["last"][0], z[4], atol=1e-4)
    assert np.allclose(got["stack"][0], z, atol=1e-4)
    assert np.allclose(got["token"][0], token, atol=1e-4)


def test_a_file_and_its_pixels_have_the_same_features(talk, picture):
    png, webp = picture(1), picture(1, kind="WEBP", lossless=True)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)

    async def work(client):
        return [(await client.infer(images, [SUM]))["sum.4"] for images in ([png], [webp], pixels[None])]

    of_png, of_webp, of_pixels = talk(work)
    assert np.allclose(of_png, of_pixels, atol=1e-5) and np.allclose(of_webp, of_pixels, atol=1e-5)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_lower_precisions_are_close(talk, picture, compression):
    files = [picture(i) for i in range(3)]

    async def work(client):
        return [
            (await client.infer(files, [Ask(k=4, precision=p, compression=compression)]))["sum.4"] for p in PRECISIONS
        ]

    exact, *others = talk(work)
    errors = [np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in others]
    assert errors[0] < 1e-3 and errors[1] < 0.01 and errors[2] < 0.15


def test_answers_come_in_json_to_those_who_do_not_ask_for_bytes(talk, picture):
    import base64

    def ask(**more):
        data = [base64.b64encode(picture(1)).decode()]
        return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}], **more}

    async def work(client):
        plain = await client.http.post("/v2/models/tiny/infer", json=ask())
        named = await client.http.post("/v2/models/tiny/infer", json=ask(id="7", outputs=[{"name": "token"}]))
        refused = await client.http.post(
            "/v2/models/tiny/infer", json=ask(parameters={"precision": "int8"}, outputs=[{"name": "last"}])
        )
        return plain, named, refused, await client.infer([picture(1)], [SUM])

    plain, named, refused, binary = talk(work)
    (output,) = plain.json()["outputs"]
    assert plain.headers["content-type"] == "application/json" and output["shape"] == [1, 17, 48]
    assert output["name"] == "sum.4" and np.allclose(output["data"], binary["sum.4"].ravel(), atol=1e-5)
    assert named.json()["id"] == "7" and named.json()["outputs"][0]["shape"] == [1, 48]
    assert refused.status_code == 400 and "binary_data: true" in refused.json()["error"]


def test_the_protocols_questions_about_server_and_models_are_answered(talk, vit):
    async def work(client):
        return [
            await client.get(p)
            for p in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/ready")
        ]

    server, live, ready, model, model_ready = talk(work)
    assert server.json()["limits"]["max_images"] == 64 and server.json()["models"] == ["tiny"]
    assert "binary_tensor_data" in server.json()["extensions"]
    assert all(r.status_code == 200 for r in (live, ready, model_ready))
    card = ModelCard.from_metadata(model.json())
    assert (card.num_blocks, card.width, card.grid, card.num_prefix_tokens) == (4, 48, (4, 4), 1)
    assert (card.digest, card.mean, card.image_size) == (vit.card.digest, vit.card.mean, (32, 32))


def test_every_family_says_what_it_offers_and_keeps_to_it(backbone, talk, picture, worker_of):
    worker = worker_of(backbone)
    asks = worker.card.asks()
    got = talk(lambda c: c.infer([picture(1), picture(2)], asks), worker)
    assert {n: x.shape for n, x in got.items()} == {a.name: (2, *worker.card.shape(a)) for a in asks}
    family = backbone.family
    expected = {"last"} | ({"sum"} if family.keeps_shape else set()) | (set() if family.staged else {"stack"})
    assert set(worker.card.gathers) - {"token"} == expected


def test_several_backbones_are_told_apart(talk, picture, worker_of, vit):
    import timm

    torch.manual_seed(1)
    other = sidetune.open_backbone(
        timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3, img_size=32)
    )

    async def work(client):
        ask = [Ask(k=2)]
        return await asyncio.gather(*(client.infer([picture(1)], ask, model=m) for m in ("one", "other", "one")))

    one, two, again = talk(work, worker_of(vit, "one"), worker_of(other, "other"))
    assert one["sum.2"].shape == (1, 17, 48) and two["sum.2"].shape == (1, 5, 48)
    assert np.array_equal(one["sum.2"], again["sum.2"])


class Slow(Worker):
    """Remembers its batches, and takes its time."""

    def compute(self, images, kind):
        self.__dict__.setdefault("batches", []).append((len(images), kind))
        threading.Event().wait(0.05)
        return super().compute(images, kind)


def test_images_of_many_requests_share_passes_and_none_are_mixed_up(talk, picture, worker_of, vit):
    worker = worker_of(vit, worker=Slow)
    files = [picture(i) for i in range(24)]

    async def work(client):
        alone = [(await client.infer([f], [SUM]))["sum.4"][0] for f in files[:3]]
        worker.batches.clear()
        together = await asyncio.gather(*(client.infer([f], [SUM]) for f in files))
        return alone, [t["sum.4"][0] for t in together]

    alone, together = talk(work, worker, max_batch=8, max_delay=0.02)
    sizes = [size for size, _ in worker.batches]
    assert sum(sizes) == 24 and max(sizes) == 8 and len(sizes) <= 6
    assert all(np.allclose(a, t, atol=1e-4) for a, t in zip(alone, together, strict=False))
    assert len({t.tobytes() for t in together}) == 24


def test_requests_for_other_taps_never_share_a_pass(talk, picture, worker_of, vit):
    worker = worker_of(vit, worker=Slow)

    async def work(client):
        asks = [[Ask(k=i % 3)] for i in range(12)]
        return await asyncio.gather(*(client.infer([picture(i)], ask) for i, ask in enumerate(asks)))

    got = talk(work, worker, max_batch=8, max_delay=0.02)
    assert [list(g) for g in got] == [[f"sum.{i % 3}"] for i in range(12)]
    assert {kind for _, kind in worker.batches} == {("sum.0",), ("sum.1",), ("sum.2",)}
    assert Counter(k for n, k in worker.batches for _ in range(n)) == dict.fromkeys(
        [("sum.0",), ("sum.1",), ("sum.2",)], 4
    )


def test_an_image_that_many_ask_for_at_once_is_computed_once(talk, picture, worker_of, vit):
    worker = worker_of(vit, worker=Slow)

    async def work(client):
        twice = [picture(1), picture(1)]
        got = await asyncio.gather(*(client.infer(twice, [SUM, Ask(k=4, precision="int8")][:1]) for _ in range(10)))
        return got, (await client.get("/metrics")).text

    got, metrics = talk(work, worker)
    assert [size for size, _ in worker.batches] == [1]
    assert all(np.array_equal(g["sum.4"][i], got[0]["sum.4"][0]) for g in got for i in (0, 1))
    assert count(metrics, "sidetune_features_total", found="computed") == 1
    assert count(metrics, "sidetune_features_total", found="joined") == 19


def count(metrics, name, **labels):
    """The sum of a metric over the series that have these labels."""
    lines = [line for line in metrics.splitlines() if line.startswith(name)]
    chosen = [line for line in lines if all(f'{k}="{v}"' in line for k, v in labels.items())]
    return sum(float(line.split()[-1]) for line in chosen)


def test_what_was_computed_is_found_again_by_the_next_service(talk, picture, worker_of, vit, tmp_path):
    files = [picture(i) for i in range(3)]
    asks = [Ask(k=4, precision="int4", compression="zstd"), Ask(gather="token")]
    first = talk(lambda c: c.infer(files, asks), cache=tmp_path)
    worker = worker_of(vit, worker=Slow)

    async def work(client):
        return await client.infer([*files, picture(3)], asks), (await client.get("/metrics")).text

    again, metrics = talk(work, worker, cache=tmp_path)
    assert worker.batches == [(1, ("sum.4", "token"))]
    assert all(np.array_equal(again[n][:3], first[n]) for n in first)
    assert count(metrics, "sidetune_features_total", found="disk") == 6
    assert count(metrics, "sidetune_cache_bytes") > 0


def test_features_of_other_weights_or_other_preprocessing_are_never_taken_from_the_cache(
    talk, picture, worker_of, vit, tmp_path
):
    talk(lambda c: c.infer([picture(1)], [SUM]), cache=tmp_path)
    worker = worker_of(vit, transform="photo", worker=Slow)
    talk(lambda c: c.infer([picture(1)], [SUM]), worker, cache=tmp_path)
    assert len(worker.batches) == 1


def test_a_backbone_that_fails_fails_its_request_alone(talk, picture, worker_of, vit):
    class Failing(Worker):
        broken = True

        def compute(self, images, kind):
            if self.broken:
                raise RuntimeError("secret detail of the machine")
            return super().compute(images, kind)

    worker = worker_of(vit, worker=Failing)

    async def work(client):
        failed = await client.post(*build_request([picture(1)], [SUM]))
        worker.broken = False
        return failed, await client.infer([picture(1)], [SUM])

    failed, got = talk(work, worker)
    assert failed.status_code == 500 and failed.json() == {"error": "the service failed on this request"}
    assert got["sum.4"].shape == (1, 17, 48)


def test_features_that_a_precision_cannot_hold_are_refused(talk, picture, worker_of, vit):
    class Huge(Worker):
        def compute(self, images, kind):
            return [{n: t * 1e8 for n, t in taps.items()} for taps in super().compute(images, kind)]

    async def work(client):
        refused = await client.post(*build_request([picture(1)], [Ask(k=4, precision="fp16")]))
        return refused, await client.infer([picture(1)], [SUM])

    refused, got = talk(work, worker_of(vit, worker=Huge))
    assert refused.status_code == 400 and "ask for fp32" in refused.json()["error"] and np.abs(got["sum.4"]).max() > 1e8


def test_metrics_count_what_went_on(talk, picture):
    async def work(client):
        await client.infer([picture(1), picture(2)], [SUM])
        await client.post(b"{")
        return (await client.get("/metrics")).text

    metrics = talk(work)
    assert count(metrics, "sidetune_requests_total", model="tiny", code="200") == 1
    assert count(metrics, "sidetune_requests_total", model="tiny", code="400") == 1
    assert count(metrics, "sidetune_batch_images_sum", model="tiny") == 2
    assert count(metrics, "sidetune_infer_seconds_count", model="tiny") == 2
    assert count(metrics, "sidetune_sent_bytes_total") > 2 * 17 * 48 * 4
    assert count(metrics, "sidetune_queue_images", model="tiny") == 0
    assert re.search(r"^sidetune_backbone_seconds_total", metrics, re.M)


def test_two_backbones_of_one_name_are_refused(talk, worker_of, vit):
    with pytest.raises(ValueError, match="same name"):
        talk(None, worker_of(vit), worker_of(vit))


class Held(Worker):
    """Computes when it is let."""

    def compute(self, images, kind):
        self.__dict__.setdefault("batches", []).append(len(images))
        assert self.go.wait(10)
        return super().compute(images, kind)


def test_what_a_caller_that_left_asked_for_is_computed_for_others_alone(talk, picture, worker_of, vit):
    worker = worker_of(vit, worker=Held)
    worker.go = threading.Event()

    async def work(client):
        first = asyncio.create_task(client.infer([picture(0)], [SUM]))  # keeps the backbone busy
        while not getattr(worker, "batches", []):
            await asyncio.sleep(0.01)
        gone, stays = (asyncio.create_task(client.infer([picture(1)], [SUM])) for _ in range(2))
        alone = asyncio.create_task(client.infer([picture(2)], [SUM]))
        while count((await client.get("/metrics")).text, "sidetune_queue_images", model="tiny") < 4:
            await asyncio.sleep(0)
        gone.cancel()
        alone.cancel()
        await asyncio.gather(gone, alone, return_exceptions=True)
        worker.go.set()
        got = [await first, await stays, await client.infer([picture(2)], [SUM])]
        return got, (await client.get("/metrics")).text

    got, metrics = talk(work, worker, max_delay=0.0)
    assert all(g["sum.4"].shape == (1, 17, 48) for g in got) and worker.batches == [1, 1, 1]
    assert count(metrics, "sidetune_queue_images", model="tiny") == 0


def test_callers_are_counted_apart_and_their_names_do_not_show(talk, picture, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text('[greenhouse]\nkey = "a key of the greenhouse"\n[orchard]\nkey = "a key of the orchard"\n')

    def bearer(name):
        return {"Authorization": f"Bearer a key of the {name}"}

    async def work(client):
        for name, number in (("greenhouse", 3), ("orchard", 1)):
            await client.infer([picture(i) for i in range(number)], [SUM], headers=bearer(name))
        await client.post(b"{", headers=bearer("orchard"))
        return (await client.get("/metrics", headers=bearer("orchard"))).text

    metrics = talk(work, keys=keys)
    lines = [line for line in metrics.splitlines() if line.startswith("sidetune_caller_images_total")]
    assert sorted(float(line.split()[-1]) for line in lines) == [1, 3]
    assert count(metrics, "sidetune_caller_requests_total", code="400") == 1
    assert "greenhouse" not in metrics and "orchard" not in metrics
