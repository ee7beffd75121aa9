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
from services import file_of

ray = pytest.importorskip("ray")

from sidetune.edge.client import Client  # noqa: E402
from sidetune.edge.enroll import enroll  # noqa: E402
from sidetune.edge.features import DONE, FeatureFile  # noqa: E402
from sidetune.edge.http import Http  # noqa: E402
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A service in a cluster of this machine: its address, and a function that sets the number of replicas."""
    folder = tmp_path_factory.mktemp("cluster")
    torch.manual_seed(0)
    path = folder / "small.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    opened = partial(
        open_workers, [str(path)], image_size=32, architecture="vit_tiny_patch16_224", precision="fp32", device="cpu"
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        http = {"host": "127.0.0.1", "port": s.getsockname()[1]}
    settings = Settings(workers=2)
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        keys = read_keys(None, settings)
        scale = partial(deploy, opened, settings, keys, folder / "cache", num_gpus=0, http=http)
        scale(replicas=1)
        yield f"http://127.0.0.1:{http['port']}", scale
    finally:
        ray.shutdown()


def kill_one_of(num_replicas):
    actors = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True)]
    replicas = [name for name in actors if name.startswith("SERVE_REPLICA")]
    assert len(replicas) == num_replicas
    ray.kill(ray.get_actor(replicas[0], namespace="serve"))


def test_replicas_added_and_killed_under_load_lose_no_answer(cluster):
    url, scale = cluster
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
            kill_one_of(2)
            time.sleep(5)
        finally:
            stop.set()
        answered = [c.result() for c in callers]
    print(f"{answered} answers, asked again after: {failures}")
    assert min(answered) > 5


def test_an_enrolment_outlives_a_replica(cluster, tmp_path):
    url, scale = cluster
    scale(replicas=2)
    images = tmp_path / "images"
    for seed in range(600):
        (images / str(seed % 2)).mkdir(parents=True, exist_ok=True)
        (images / str(seed % 2) / f"{seed}.png").write_bytes(file_of(seed))
    killed = threading.Event()

    def report(progress):
        if progress.done > 50 and not killed.is_set():
            killed.set()
            kill_one_of(2)

    def features(name, report=lambda _: None):
        header = enroll(Client(Http(url), "small"), images, tmp_path / name, precision="fp32", report=report)
        with FeatureFile(tmp_path / name) as file:
            assert (file.states == DONE).all() and len(file.states) == 600
            return file.batch(range(600), 12, np.empty((600, *header.card.shape(Ask(k=12))), np.float32))

    got = features("disturbed", report)
    assert killed.is_set()
    assert np.allclose(got, features("undisturbed"), atol=1e-4)


def test_every_replica_takes_a_folder_of_its_own(tmp_path):
    from sidetune.serve.cache import Cache

    first = Cache(free_folder(tmp_path), 1000)
    assert free_folder(tmp_path) == tmp_path / "1"
    first.close()
    assert free_folder(tmp_path) == tmp_path / "0"
