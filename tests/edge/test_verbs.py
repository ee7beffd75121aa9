"""What the device's verbs say of images that were left out, and of keys."""

import json
from dataclasses import replace

import pytest
from flaky import Flaky, tiny_service

from sidetune.edge import cli
from sidetune.edge.client import Client
from sidetune.edge.http import Http


@pytest.fixture
def device(monkeypatch, capsys):
    """Run a verb against a service in this process: status, standard output, standard error."""
    monkeypatch.setattr("sidetune.edge.http.Http", lambda *_, **__: Inside(tiny_service()))

    def run(*words, status=0):
        try:
            cli.main([*map(str, words)])
            ended = 0
        except SystemExit as e:
            ended = e.code
        said = capsys.readouterr()
        assert ended == status, said.err
        return said

    return run


class Inside(Flaky):
    shows_key = False


SERVER = ("--server", "http://x")


@pytest.fixture
def with_bad(folder):
    """The folder with two images that cannot be read, one of them for training."""
    bad = [next((folder / part / "dark").iterdir()) for part in ("train", "test")]
    for path in bad:
        path.write_bytes(b"no image")
    return folder, bad


def test_enroll_and_status_count_what_was_kept(device, with_bad, tmp_path):
    folder, bad = with_bad
    file = tmp_path / "f"
    words = ("enroll", folder, *SERVER, "--out", file)
    refused = device(*words, status=2).err
    assert "2 of 48 images could not be read: " in refused and "leave them out with --skip-bad" in refused
    said = device(*words, "--skip-bad")
    assert f"{file}: features of 46 of 48 images; train with" in said.out
    told = json.loads(device(*words, "--skip-bad", "--json").out)
    assert (told["kept"], told["total"], told["complete"]) == (46, 48, True)
    assert told["images"]["train"] == {"there": 32, "missing": 0, "refused": 1}
    assert json.loads(device("status", file, "--json").out) == told
    assert "46 of 48 images kept" in device("status", file).out


def test_enroll_names_one_number_where_all_were_kept(device, folder, tmp_path):
    assert "features of 48 images; train with" in device("enroll", folder, *SERVER, "--out", tmp_path / "f").out


def test_images_that_were_mended_are_sent_again(device, with_bad, tmp_path):
    folder, bad = with_bad
    words = ("enroll", folder, *SERVER, "--out", tmp_path / "f")
    device(*words, "--skip-bad")
    good = next((folder / "train" / "grey").iterdir())
    for path in bad:
        path.write_bytes(good.read_bytes())
    said = device(*words, "--skip-bad")
    assert "2 images have changed since they were sent, and are sent again" in said.err
    assert "features of 48 images" in said.out


def test_a_class_of_which_nothing_would_be_left_is_named(device, folder, tmp_path):
    for path in (folder / "train" / "light").iterdir():
        path.write_bytes(b"")
    words = ("enroll", folder, *SERVER, "--out", tmp_path / "f", "--skip-bad")
    said = device(*words, status=2).err
    assert "without its bad images a class is empty: light; 11 of 48 images could not be read: train/light/" in said
    assert " and 6 more. Mend some and enrol again" in said


def test_a_file_that_cannot_be_opened_is_left_out_as_one_that_cannot_be_decoded(device, folder, tmp_path, monkeypatch):
    path = next((folder / "train" / "dark").iterdir())
    real = type(path).read_bytes

    def read_bytes(self):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(type(path), "read_bytes", read_bytes)
    said = device("enroll", folder, *SERVER, "--out", tmp_path / "f", "--skip-bad")
    assert "features of 47 of 48 images" in said.out
    assert f"train/dark/{path.name}: it cannot be read (Permission denied)" in said.err


def test_predict_leaves_bad_images_out_where_it_is_told_to(device, with_bad, tmp_path):
    folder, bad = with_bad
    device("enroll", folder, *SERVER, "--out", tmp_path / "f", "--skip-bad")
    device("fit", tmp_path / "f", "--out", tmp_path / "m", "--epochs", 1, "--rank", 4)
    words = ("predict", tmp_path / "m", folder / "test", tmp_path / "nowhere.jpg", *SERVER)
    stopped = device(*words, status=2)
    assert f"{bad[1]}: " in stopped.err and "leave out images that cannot be read with --skip-bad" in stopped.err
    said = device(*words, "--skip-bad")
    good = sorted(set((folder / "test").rglob("*.png")) - set(bad))
    assert [line.partition(": ")[0] for line in said.out.splitlines()] == list(map(str, good))
    assert f"skipped: {bad[1]}: " in said.err and f"skipped: {tmp_path / 'nowhere.jpg'}: it cannot be read" in said.err
    rows = json.loads(device(*words, "--skip-bad", "--json").out)
    assert [row["image"] for row in rows] == list(map(str, good))


def test_predict_refuses_a_compression_that_the_service_does_not_have_before_any_image_counts_as_bad(
    device, folder, tmp_path, monkeypatch
):
    device("enroll", folder, *SERVER, "--out", tmp_path / "f")
    device("fit", tmp_path / "f", "--out", tmp_path / "m", "--epochs", 1, "--rank", 4)
    service = tiny_service()
    monkeypatch.setattr(service, "card", replace(service.card, compressions=("none",)))
    words = ("predict", tmp_path / "m", folder / "test", *SERVER, "--skip-bad", "--compression", "zstd")
    assert "tiny does not offer compression zstd; it offers none" in device(*words, status=2).err


@pytest.mark.parametrize(
    ("server", "warned"),
    [("http://192.0.2.1:8000", True), ("http://127.0.0.1:8000", False), ("https://192.0.2.1:8000", False)],
)
def test_a_key_over_plain_http_is_warned_of_before_it_is_sent(server, warned, tmp_path, monkeypatch, capsys):
    (tmp_path / "key").write_text("a-key-for-the-tests-0123\n")
    said_before = []

    def send(self, *_, **__):
        said_before.append(capsys.readouterr().err)
        assert self.headers["Authorization"] == "Bearer a-key-for-the-tests-0123"
        return tiny_service().send("/v2")

    monkeypatch.setattr(Http, "send", send)
    words = ["predict", "m", "i.jpg", "--server", server, "--key-file", str(tmp_path / "key")]
    assert isinstance(cli.client_of(cli.parser("sidetune edge").parse_args(words), cli.Line()), Client)
    assert said_before and ("warning: http://192.0.2.1 is not encrypted" in said_before[0]) == warned
    assert "a-key" not in said_before[0]
