"""`sidetune serve` as a process of its own."""

import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from sidetune.cli import pair
from sidetune.cli.serve import readable
from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request, parse_response
from sidetune.wire.message import HEADER_LENGTH

KEY = "a-key-for-the-tests-0123"


def process(weights, *options):
    """A running service: the process and its address."""
    network = ("--backbone", weights, "--architecture", "vit_tiny_patch16_224", "--precision", "fp32")
    return pair.service(*network, *options)


def ask(client, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    body, length = build_request(pixels, [Ask(k=12, precision="int8")])
    return client.post("/v2/models/small/infer", content=body, headers={HEADER_LENGTH: str(length)})


def test_a_service_that_is_told_to_stop_answers_what_it_accepted(weights, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[me]\nkey = "{KEY}"\n')
    with process(weights, "--keys", keys, "--cache", tmp_path / "cache", "--max-batch", 1) as (running, url):
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{url}/v2").status_code == 401
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client, ThreadPoolExecutor(24) as pool:
            assert ask(client, 0).status_code == 200
            answers = [pool.submit(ask, client, seed) for seed in range(1, 25)]
            while waiting(client) < 8:
                assert not all(a.done() for a in answers), "it answers faster than it is asked"
            accepted = waiting(client)
            running.send_signal(signal.SIGTERM)
            done = [a.result().status_code for a in answers if a.exception() is None]
        assert accepted >= 8 and done.count(200) >= accepted and set(done) == {200}
        assert running.wait(30) in (0, -signal.SIGTERM)
        assert KEY not in running.stderr.read()


def waiting(client):
    """Images that the service has accepted and not answered."""
    metrics = client.get("/metrics").text
    return float(re.search(r"^sidetune_queue_images\S* (\S+)", metrics, re.M)[1])


def test_tls_and_limits_come_from_the_command_line(weights, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate")
    import ssl

    options = ("--tls-cert", cert, "--tls-key", key, "--set", "max_body=200000", "--set", "max_pixels=60000")
    with process(weights, *options) as (_, url):
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=str(cert)), timeout=60) as client:
            answer = ask(client, 0)
            got = parse_response(answer.content, int(answer.headers[HEADER_LENGTH]), [Ask(k=12, precision="int8")])
            assert got.answers["sum.12"].features(0).shape == (197, 192)
            large = build_request(np.zeros((1, 250, 250, 3), np.uint8), [Ask(k=12)])[0]
            assert client.post("/v2/models/small/infer", content=large).status_code == 400
            assert client.post("/v2/models/small/infer", content=bytes(200_001)).status_code == 413


def test_secrets_that_others_can_read_are_told_of(tmp_path):
    (key := tmp_path / "key.pem").write_text("secret")
    key.chmod(0o600)
    assert list(readable(key)) == []
    key.chmod(0o640)
    assert list(readable(key)) == [f"others on this machine can read {key}; chmod 600 {key} prevents it"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--set", "max_pixel=3"), "max_pixels"),
        (("--set", "queue"), "NAME=VALUE"),
        (("--precision", "int8"), "unknown precision 'int8'"),
        (("--tls-cert", "cert.pem"), "both --tls-cert and --tls-key"),
        (("--keys", "nowhere.toml"), "nowhere.toml"),
        (("--queue", "8"), "queue must hold a batch"),
    ],
)
def test_wrong_options_are_one_message(weights, options, message, monkeypatch, capsys):
    from sidetune.cli.main import main

    command = ["sidetune", "serve", "--backbone", str(weights), "--architecture", "vit_tiny_patch16_224", *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said and "Traceback" not in said
