"""Service and device as two processes: no PyTorch on the device, restarts of the service, keys, Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import sidetune
from sidetune.cli import pair

KEY, SLOW = "a-key-for-the-tests-0123", "a-slow-key-for-the-tests"
HEAVY = ("torch", "timm", "torchvision", "PIL", "httpx", "typer", "rich", "matplotlib", "accelerate")
WITHOUT = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\nfrom sidetune.cli.entry import main\nmain()"


def device(*words, status=0):
    """`sidetune edge ...` in a process in which nothing but NumPy and safetensors exists; its JSON, or what it says."""
    command = [sys.executable, "-c", WITHOUT, "edge", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if "--json" in words and not status else done.stdout + done.stderr


def service(weights, *options):
    """A running service: the process and its address."""
    network = ("--backbone", weights, "--architecture", "vit_tiny_patch16_224", "--image-size", 64)
    return pair.service(*network, "--transform", "vtab", "--precision", "fp32", *options)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_enroll_fit_predict_and_back_to_pytorch(weights, folder, tmp_path):
    keys, key = tmp_path / "keys.toml", tmp_path / "key"
    keys.write_text(f'[me]\nkey = "{KEY}"\n')
    key.write_text(KEY + "\n")
    file, out = tmp_path / "squares.features", tmp_path / "model"
    with service(weights, "--keys", keys) as (_, url):
        refused = device("enroll", folder, "--server", url, "--out", file, status=2)
        assert "refuses the key (401)" in refused and not file.exists()
        told = device("enroll", folder, "--server", url, "--out", file, "--key-file", key, "--k", "6,12", "--json")
        assert told["complete"] and told["ks"] == [6, 12]
        assert device("status", file, "--json") == told
        fitting = ("fit", file, "--out", out, *"--k auto --epochs 8 --batch-size 8 --rank 8 --lr 1e-2".split())
        done = device(*fitting, "--json")
        assert done["accuracy"]["test"] == 1 and len(done["history"]) == 8 and done["k"] in (6, 12)
        assert "--resume" in device(*fitting, status=2)
        images = sorted((folder / "test").rglob("*.png"))
        found = device("predict", out, folder / "test", "--server", url, "--key-file", key, "--top", 3, "--json")
    assert [row["image"] for row in found] == list(map(str, images))
    model = sidetune.load(out, backbone=str(weights))
    for row, expected in zip(found, model.predict(images, top=3), strict=True):
        assert row["top"][0][0] == expected.label
        assert row["top"][0][1] == pytest.approx(expected.probability, abs=0.05)  # features came in 8 bits


def test_a_service_killed_during_an_enrolment_is_waited_for(weights, folder, tmp_path):
    port, file = free_port(), tmp_path / "f"
    words = ("enroll", folder, "--server", f"http://127.0.0.1:{port}", "--out", file, "--json", "--in-flight", 2)
    answers = []
    with service(weights, "--port", port, *keys_in(tmp_path)) as (running, _):
        enrolling = threading.Thread(
            target=lambda: answers.append(device(*words, "--key-file", tmp_path / "slow", "--precision", "fp32"))
        )
        enrolling.start()
        await_images(file)
        running.kill()
        running.wait()
    assert not answers, "at its rate it would have asked for minutes"
    with socket.create_server(("127.0.0.1", port)) as nobody:
        nobody.accept()[0].close()  # it has asked in vain
    (tmp_path / "keys.toml").write_text(f'[slow]\nkey = "{SLOW}"\n')
    with service(weights, "--port", port, "--keys", tmp_path / "keys.toml"):
        enrolling.join(60)
    assert answers and answers[0]["complete"]
    assert sum(counts["there"] for counts in answers[0]["images"].values()) == 48


def keys_in(folder):
    """Two keys, one of a rate at which 48 images take minutes: files `slow` and `fast`, and the service's options."""
    for name, key in (("slow", SLOW), ("fast", KEY)):
        (folder / name).write_text(key)
    (folder / "keys.toml").write_text(f'[slow]\nkey = "{SLOW}"\nrate = 0.4\n[fast]\nkey = "{KEY}"\n')
    return "--keys", folder / "keys.toml"


def await_images(file):
    """Until the first are there."""
    while not file.exists() or not device("status", file, "--json")["images"]["train"]["there"]:
        pass


@pytest.fixture(scope="module")
def hosted(weights, tmp_path_factory):
    """Words that name a service and a key to it: a slow and a fast one."""
    folder = tmp_path_factory.mktemp("hosted")
    with service(weights, *keys_in(folder)) as (_, url):
        yield [("--server", url, "--key-file", folder / name) for name in ("slow", "fast")]


def test_a_device_killed_during_an_enrolment_goes_on(hosted, folder, tmp_path):
    file, (slow, fast) = tmp_path / "f", hosted
    words = ["enroll", folder, "--out", file, "--json"]
    command = [sys.executable, "-c", WITHOUT, "edge", *map(str, (*words, *slow))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        await_images(file)
        running.kill()
    before = device("status", file, "--json")
    assert not before["complete"] and before["images"]["train"]["there"]
    assert device(*words, *fast)["complete"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "nowhere"), "No such file"),
        (("fit", "nowhere", "--out", "m"), "No such file"),
        (("fit", "nowhere", "--out", "m", "--epochs", "0"), "epochs must be at least 1"),
        (("enroll", ".", "--out", "f", "--server", "ftp://x"), "a server is http://HOST:PORT"),
        (("enroll", ".", "--out", "f", "--server", "x", "--k", "one"), "expected whole numbers"),
        (("enroll", ".", "--out", "f", "--server", "x", "--in-flight", "0"), "in-flight must be at least 1"),
        (("predict", "m", "i.png", "--server", "x", "--top", "0"), "top must be at least 1"),
        ((), "required"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in device(*words, status=2)


def test_an_address_where_nobody_answers_is_given_up(folder, tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    said = device("enroll", folder, "--server", url, "--out", tmp_path / "f", "--patience", "0.5", status=2)
    assert "has not answered" in said and "refused" in said


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(hosted, folder, tmp_path):
    words = ["enroll", folder, *hosted[0], "--out", tmp_path / "f"]
    command = [sys.executable, "-c", WITHOUT, "edge", *map(str, words)]

    def heed() -> None:  # where the tests run in a shell's background, SIGINT comes ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as running:
        while not (tmp_path / "f").exists():
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert running.wait(60) == 130
    assert "the same command goes on" in said and "Traceback" not in said
