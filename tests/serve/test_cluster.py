"""The service hosted by Ray: replicas come and go, and no caller that asks again is left without its answer."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

ray = pytest.importorskip("ray")

from sidetune.serve.cluster import deploy, free_folder  # noqa: E402
from sidetune.serve.keys import read_keys  # noqa: E402
from sidetune.serve.settings import Settings  # noqa: E402
from sidetune.serve.worker import open_workers  # noqa: E402
from sidetune.wire.ask import Ask  # noqa: E402
from sidetune.wire.infer import build_request, parse_response  # noqa: E402
from sidetune.wire.message import HEADER_LENGTH  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
ASK = Ask(k=12, precision="int8")
TRIES = 20


def infer(url, seed, failures):
    """One image's features; asks again as docs/wire.md says."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    body, length = build_request(pixels, [ASK])
    for _ in range(TRIES):
        try:
            answer = httpx.post(
                f"{url}/v2/models/small/infer", content=body, headers={HEADER_LENGTH: str(length)}, timeout=60
            )
            if answer.status_code == 200:
                got = parse_response(answer.content, int(answer.headers[HEADER_LENGTH]), [ASK])
                return got.answers["sum.12"].features(0)
            failures.append(answer.status_code)
        except httpx.TransportError as e:
            failures.append(type(e).__name__)
        time.sleep(0.5)
    raise AssertionError(f"image {seed}: no answer in {TRIES} tries: {failures}")


def test_replicas_added_and_killed_under_load_lose_no_answer(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    opened = partial(
        open_workers, [str(path)], image_size=32, architecture="vit_tiny_patch16_224", precision="fp32", device="cpu"
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings, url = Settings(workers=2), f"http://127.0.0.1:{port}"
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        scale = partial(
            deploy,
            opened,
            settings,
            read_keys(None, settings),
            tmp_path / "cache",
            num_gpus=0,
            http={"host": "127.0.0.1", "port": port},
        )
        scale(replicas=1)
        failures, stop = [], threading.Event()

        def load(first):
            answered = 0
            for seed in range(first, 10**6, 4):
                if stop.is_set():
                    return answered
                assert infer(url, seed, failures).shape == (5, 192)
                answered += 1

        with ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(load, first) for first in range(4)]
            try:
                scale(replicas=2)
                assert not failures, "adding a replica failed calls"
                time.sleep(1)
                actors = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True)]
                replicas = [name for name in actors if name.startswith("SERVE_REPLICA")]
                assert len(replicas) == 2
                ray.kill(ray.get_actor(replicas[0], namespace="serve"))
                time.sleep(5)
            finally:
                stop.set()
            answered = [c.result() for c in callers]
        print(f"{answered} answers, asked again after: {failures}")
        assert min(answered) > 5
    finally:
        ray.shutdown()


def test_every_replica_takes_a_folder_of_its_own(tmp_path):
    from sidetune.serve.cache import Cache

    first = Cache(free_folder(tmp_path), 1000)
    assert free_folder(tmp_path) == tmp_path / "1"
    first.close()
    assert free_folder(tmp_path) == tmp_path / "0"
