"""Tiny random backbones, one of each family, and a data set of coloured squares."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from jaxtyping import install_import_hook

with install_import_hook(["sidetune.tasks", "sidetune.seam.prefix", "sidetune.model"], "beartype.beartype"):
    import sidetune.model  # noqa: F401

import hypothesis
import numpy as np
import pytest
import timm
import torch
from PIL import Image

from sidetune.backbones import FAMILIES, Backbone, open_backbone
from sidetune.data.samples import Samples
from sidetune.seam.taps import Need, Tap

pytest_plugins = ["services", "faulty_disk", "verbs"]

# The same examples each time, nothing kept between runs, no clock.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None, max_examples=30)
hypothesis.settings.register_profile("many", database=None, deadline=None, max_examples=1000)
hypothesis.settings.load_profile("same")  # unless --hypothesis-profile many asks for others

torch.set_num_threads(1)  # `make test` runs two workers

TINY = {
    "vit": ("vit_tiny_patch16_224", {"depth": 4, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 8}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 42}),
    "gap": ("vit_base_patch16_siglip_gap_224", {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 32}),
    "eva": (
        "vit_tiny_patch16_dinov3_qkvb",
        {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 8},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2), "img_size": 64, "window_size": 2},
    ),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}),
    "resnet": ("resnet18", {"channels": (8, 16, 24, 32)}),
    "efficientnet": ("tf_efficientnet_lite0", {}),
    "mit": ("mit_b0", {"depths": (1, 1, 2, 1), "widths": (16, 16, 24, 32), "num_heads": (1, 1, 2, 2)}),
}
CNN_SIZE = 32
STAGES = {
    "vit": (4,),
    "dinov2": (3,),
    "gap": (3,),
    "eva": (3,),
    "swin": (1, 1, 2, 1),
    "convnext": (1, 1, 2, 1),
    "resnet": (2, 2, 2, 2),
    "efficientnet": (1, 2, 2, 3, 3, 4, 1),
    "mit": (1, 1, 2, 1),
}
"""How many blocks each stage of these has. What tests have by kind are answers written down by hand; a kind
that is new in TINY needs none."""
CHANGING = {"resnet": (1, 3, 5, 7), "efficientnet": (1, 2, 4, 6, 9, 12, 16)}
"""Blocks that change width or size themselves: the first of a stage, where nothing stands between stages."""
PREFIX_TOKENS = {"vit": 1, "dinov2": 1 + 4, "eva": 1 + 4}
GRIDS = {"vit": (4, 4), "dinov2": (3, 3), "gap": (2, 2), "eva": (4, 4)}
CHANNELS_FIRST = ("convnext", "resnet", "efficientnet")


def stage_of(kind: str) -> dict[int, int]:
    """The stage of each block, both from 1 on."""
    rows = [stage for stage, count in enumerate(STAGES[kind], start=1) for _ in range(count)]
    return dict(enumerate(rows, start=1))


def tiny_network(kind: str, seed: int = 0) -> torch.nn.Module:
    name, changes = TINY[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name, num_classes=0, **changes)
        for parameter in network.parameters():  # LayerScale and zero starts would hide what blocks do
            if parameter.ndim == 1:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def tiny_size(network: torch.nn.Module) -> int | None:
    """What it is opened for: its own size, or, where any will do, a small one."""
    return None if FAMILIES[type(network)].native_size(network) else CNN_SIZE


def tiny_backbone(kind: str, seed: int = 0) -> Backbone:
    network = tiny_network(kind, seed)
    return open_backbone(network, image_size=tiny_size(network))


@pytest.fixture(autouse=True)
def verbs_read_pictures_themselves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that read the few pictures of tests of verbs take longer to start than those to read. The README's
    commands (tests/test_docs.py) have them."""
    if request.path.parent.name == "cli":
        for where in ("batches", "kept"):
            monkeypatch.setattr(
                f"sidetune.train.{where}.num_workers", lambda data, recipe: recipe.means.num_workers or 0
            )


@pytest.fixture(params=TINY)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.fixture
def vit() -> Backbone:
    return tiny_backbone("vit")


def taps(names: str) -> Need:
    """`input.1 output.2` as a need."""
    return Need(map(Tap.named, names.split()))


def squares() -> Samples:
    """48 grey pictures of three brightnesses."""
    rng = np.random.default_rng(0)
    labels = [i % 3 for i in range(48)]
    images = np.stack([rng.integers(80 * label, 80 * label + 90, (16, 16)) for label in labels]).astype(np.uint8)
    return Samples(images=images, labels=labels, classes=("dark", "grey", "light"))


@pytest.fixture
def samples() -> Samples:
    return squares()


@pytest.fixture
def folder(tmp_path, samples):
    """An image folder with train, val and test parts."""
    root = tmp_path / "squares"
    for i, label in enumerate(samples.labels):
        part = ("train", "train", "train", "val", "test", "train")[i // 3 % 6]
        path = root / part / samples.classes[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(samples.images[i]).save(path)
    return root
