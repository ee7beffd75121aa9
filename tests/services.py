"""Services over tiny backbones, spoken to without a network."""

import asyncio
import io
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from sidetune.serve.app import create_app
from sidetune.serve.keys import read_keys
from sidetune.serve.settings import Settings
from sidetune.serve.worker import Worker
from sidetune.wire.infer import build_request, parse_response
from sidetune.wire.message import HEADER_LENGTH


def file_of(seed=0, size=(40, 48), kind="PNG", **options):
    """A picture of noise as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def make_worker(backbone, name="tiny", transform="vtab", worker=Worker):
    return worker(backbone, name=name, transform=transform, device=torch.device("cpu"), precision="fp32")


class Client:
    """A caller of an app in this process."""

    def __init__(self, http):
        self.http = http

    async def get(self, path, **given):
        return await self.http.get(path, **given)

    async def post(self, body, length=None, model="tiny", headers=None):
        said = {} if length is None else {HEADER_LENGTH: str(length)}
        return await self.http.post(f"/v2/models/{model}/infer", content=body, headers={**said, **(headers or {})})

    async def infer(self, images, asks, model="tiny", headers=None, **given):
        """Features by output name, (batch, ...)."""
        answer = await self.post(*build_request(images, asks, **given), model=model, headers=headers)
        assert answer.status_code == 200, answer.text
        response = parse_response(answer.content, int(answer.headers[HEADER_LENGTH]), asks)
        return {n: np.stack([a.features(i) for i in range(len(a.data))]) for n, a in response.answers.items()}


@asynccontextmanager
async def running(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield Client(http)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file with the weights of a small network, for a service in a process of its own."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def picture():
    return file_of


@pytest.fixture
def worker_of():
    return make_worker


@pytest.fixture
def talk(vit):
    """Run a conversation with a service: `talk(work)` with `async def work(client)`."""

    def run(work, *workers, keys=None, cache=None, **settings):
        limits = Settings(**{"max_delay": 0.001, "workers": 2, **settings})
        app = create_app(workers or [make_worker(vit)], limits, read_keys(keys, limits), cache)

        async def conversation():
            async with running(app) as client:
                return await work(client)

        return asyncio.run(conversation())

    return run
