"""What a service says of itself and of its backbones, in the words of the protocol and of Triton's extensions to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sidetune
from sidetune.serve.settings import Settings
from sidetune.wire.ask import IMAGE
from sidetune.wire.metadata import PLATFORM, VERSION, ModelCard

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
LIMITS = ("max_images", "max_image_bytes", "max_pixels", "max_request_pixels", "max_scans", "max_response")
"""Settings that a caller is told."""
READY = "READY"


def server(models: Iterable[str], settings: Settings, max_body: int) -> dict[str, Any]:
    limits = {name: getattr(settings, name) for name in LIMITS} | {"max_body": max_body}
    about = {"name": "sidetune", "version": sidetune.__version__, "extensions": EXTENSIONS}
    return {**about, "models": list(models), "limits": limits}


def configuration(card: ModelCard, settings: Settings, kind: str) -> dict[str, Any]:
    """A `ModelConfig` of Triton's as JSON; `kind`: of device, cpu or cuda. Dims leave the batch out, as Triton's do."""
    outputs = [{"name": a.name, "data_type": "TYPE_FP32", "dims": card.shape(a)} for a in card.asks()]
    return {
        "name": card.name,
        "platform": PLATFORM,
        "backend": "sidetune",
        "version_policy": {"specific": {"versions": [int(VERSION)]}},
        "max_batch_size": settings.max_images,
        "input": [{"name": IMAGE, "data_type": "TYPE_STRING", "format": "FORMAT_NONE", "dims": [1]}],
        "output": outputs,
        "dynamic_batching": {
            "preferred_batch_size": [settings.max_batch],
            "max_queue_delay_microseconds": round(settings.max_delay * 1e6),
        },
        "instance_group": [{"name": card.name, "kind": "KIND_CPU" if kind == "cpu" else "KIND_GPU", "count": 1}],
        "model_transaction_policy": {"decoupled": False},
    }


def index(models: Iterable[str]) -> list[dict[str, str]]:
    """The repository's: every model that is served is ready, and there are no others."""
    return [{"name": name, "version": VERSION, "state": READY, "reason": ""} for name in models]
