"""What the service asks of Ray, told to a stand-in; test_cluster.py has Ray itself, where it is installed."""

import signal
import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from sidetune.errors import MissingExtra
from sidetune.serve.cache import Cache
from sidetune.serve.cluster import deploy, free_folder, hosted, wait
from sidetune.serve.keys import read_keys
from sidetune.serve.settings import Settings


class Serve(ModuleType):
    """Ray Serve's calls that are made, with what they were given."""

    def __init__(self):
        super().__init__("ray.serve")
        self.calls = []

    def start(self, **how):
        self.calls.append(("start", how))

    def ingress(self, build):
        self.build = build
        return lambda cls=None: "ingress"

    def deployment(self, of):
        return SimpleNamespace(
            options=lambda **how: self.calls.append(("options", how)) or SimpleNamespace(bind=lambda: of)
        )

    def run(self, bound, **how):
        self.calls.append(("run", how))

    def shutdown(self):
        self.calls.append(("shutdown", {}))


@pytest.fixture
def serve(monkeypatch):
    serve, ray = Serve(), ModuleType("ray")
    ray.serve = serve
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    return serve


def test_replicas_share_the_threads_and_are_given_their_limits(serve, vit, worker_of, tmp_path):
    settings = Settings(workers=7, queue=50, shutdown_timeout=9, max_batch=8)
    opened = []

    def workers():
        opened.append(worker_of(vit))
        return opened

    how = {"replicas": 3, "num_gpus": 0.5, "http": {"port": 7}}
    deploy(workers, settings, read_keys(None, settings), tmp_path / "cache", **how)
    assert serve.calls == [
        ("start", {"http_options": {"port": 7}}),
        (
            "options",
            {
                "num_replicas": 3,
                "max_ongoing_requests": 50,
                "graceful_shutdown_timeout_s": 9,
                "ray_actor_options": {"num_gpus": 0.5},
            },
        ),
        ("run", {"name": "sidetune", "route_prefix": "/"}),
    ]
    assert not opened, "weights are loaded by the replicas"
    app = serve.build()
    assert len(opened) == 1 and (tmp_path / "cache/0").is_dir()
    assert {"/v2", "/metrics"} <= {route.path for route in app.routes}
    serving = next(r.endpoint for r in app.routes if r.path == "/v2").__self__
    assert serving.settings.workers == 2 and serving.cache_folder == tmp_path / "cache/0"


def test_every_replica_has_at_least_one_thread_and_a_cache_only_where_one_is_given(serve, vit, worker_of):
    settings = Settings(workers=2)
    deploy(lambda: [worker_of(vit)], settings, read_keys(None, settings), None, replicas=5, num_gpus=0, http={})
    app = serve.build()
    serving = next(r.endpoint for r in app.routes if r.path == "/v2").__self__
    assert serving.settings.workers == 1 and serving.cache_folder is None


def test_each_replica_of_a_machine_has_a_cache_of_its_own(tmp_path, monkeypatch):
    first, second = (Cache(tmp_path / name, 10**6) for name in "01")
    assert free_folder(tmp_path) == tmp_path / "2"
    first.close()
    assert free_folder(tmp_path) == tmp_path / "0"
    first = Cache(tmp_path / "0", 10**6)
    monkeypatch.setattr("sidetune.serve.cluster.MOST_REPLICAS", 2)
    with pytest.raises(ValueError, match="has 2 folders, and all are in use"):
        free_folder(tmp_path)
    first.close(), second.close()


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    settings = Settings()
    with pytest.raises(MissingExtra, match=r"sidetune serve --ray.*sidetune\[ray\]"):
        deploy(list, settings, read_keys(None, settings), None, replicas=1, num_gpus=0, http={})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_told_to_stop_by_signals_and_then_lets_the_replicas_end(serve, monkeypatch, number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    class Signalled(threading.Event):
        def wait(self, timeout=None):
            assert not serve.calls
            signal.raise_signal(number)
            return super().wait(5)

    monkeypatch.setattr("sidetune.serve.cluster.threading.Event", Signalled)
    try:
        wait()
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert serve.calls == [("shutdown", {})]


def test_an_app_is_made_of_the_workers_it_opens(vit, worker_of, tmp_path):
    app = hosted(lambda: [worker_of(vit)], Settings(), read_keys(None, Settings()), tmp_path)
    assert any(route.path == "/v2/models/{name}/infer" for route in app.routes)
