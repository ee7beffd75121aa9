"""`sidetune serve`: frozen backbones as a service that small devices get their features from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sidetune.cli.options import BACKBONE_HELP
from sidetune.errors import MissingExtra


def serve_command(
    backbone: Annotated[list[str], typer.Option(help=f"{BACKBONE_HELP} Repeatable.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of the machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    image_size: Annotated[int | None, typer.Option(help="Pixels; the backbone's own by default.")] = None,
    architecture: Annotated[str | None, typer.Option(help="timm's name, for a weights file.")] = None,
    transform: Annotated[str, typer.Option(help="How pictures become tensors: photo, vtab, few-shot.")] = "photo",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU where there is one.")] = None,
    keys: Annotated[Path | None, typer.Option(help="TOML file of API keys; without it everyone may ask.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that features are kept in by image.")] = None,
    max_batch: Annotated[int, typer.Option(help="Images in one pass of a backbone.", min=1)] = 32,
    max_delay_ms: Annotated[float, typer.Option(help="How long an image may wait for others.", min=0)] = 5.0,
    queue: Annotated[int, typer.Option(help="Images accepted and not answered; above it, 503.", min=1)] = 256,
    ray: Annotated[
        bool, typer.Option("--ray", help="Host it in a Ray cluster, on as many machines as that has.")
    ] = False,
    replicas: Annotated[int, typer.Option(help="With --ray: copies of the service.", min=1)] = 1,
    settings: Annotated[
        list[str], typer.Option("--set", help="Any other limit, such as max_pixels=10000000.", metavar="NAME=VALUE")
    ] = [],  # noqa: B006
) -> None:
    """Serve features of backbones over the Open Inference Protocol (docs/wire.md); SIGTERM stops it gracefully."""
    try:
        from sidetune.serve.app import create_app
        from sidetune.serve.keys import read_keys
        from sidetune.serve.server import bind, check_tls, run
        from sidetune.serve.settings import Settings
    except ModuleNotFoundError as e:
        if e.name in ("starlette", "uvicorn", "httptools", "prometheus_client"):
            raise MissingExtra(f"sidetune serve (which imports {e.name})", "serve") from e
        raise
    from sidetune.cli.choices import changed
    from sidetune.serve.worker import open_workers

    limits = changed(
        Settings(max_batch=max_batch, max_delay=max_delay_ms / 1e3, queue=queue), dict(split(s) for s in settings)
    )
    callers = read_keys(keys, limits)
    check_tls(tls_cert, tls_key)
    secrets = [path for path in (keys, tls_key) if path is not None]
    for warning in (*exposed(host, keys, tls_cert), *(told for path in secrets for told in readable(path))):
        typer.echo(f"warning: {warning}", err=True)
    open_all = partial(
        open_workers,
        backbone,
        image_size=image_size,
        architecture=architecture,
        transform=transform,
        precision=precision,
        device=device,
    )
    if ray:
        from sidetune.serve.cluster import deploy, wait
        from sidetune.train.precision import best_device

        num_gpus = 1.0 if (device or best_device().type).startswith("cuda") else 0.0
        http = {
            "host": host,
            "port": port,
            "ssl_certfile": tls_cert and str(tls_cert),
            "ssl_keyfile": tls_key and str(tls_key),
        }
        deploy(open_all, limits, callers, cache, replicas=replicas, num_gpus=num_gpus, http=http)
        typer.echo(f"{replicas} replicas are ready on port {port}", err=True)
        return wait()
    with ExitStack() as stack:
        sockets = [stack.enter_context(sock) for sock in bind(host, port)]
        workers = open_all()
        for worker in workers:
            card = worker.card
            typer.echo(f"/v2/models/{card.name}: weights {card.digest[:12]}, {card.dtype}", err=True)
        app = create_app(workers, limits, callers, cache)
        run(app, limits, host=host, port=port, cert=tls_cert, key=tls_key, sockets=sockets)


def exposed(host: str, keys: Path | None, tls_cert: Path | None) -> Iterator[str]:
    """What whoever reaches a service on this address could do."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and keys is None:
        yield f"everyone who reaches {host} may ask for features; --keys says who may"
    if not local and tls_cert is None:
        yield f"what is sent to {host}, keys included, can be read on its way; --tls-cert and --tls-key prevent it"


def readable(path: Path) -> Iterator[str]:
    """Whether others of this machine may read a file of secrets."""
    if path.stat().st_mode & 0o077:
        yield f"others on this machine can read {path}; chmod 600 {path} prevents it"


def split(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise ValueError(f"--set takes NAME=VALUE, got {setting!r}")
    return name, value
