"""Enrolment: every image exactly once in the file, whatever happens in between."""

import json
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from flaky import Flaky, tiny_service
from PIL import Image

import sidetune
from sidetune.data.folders import read_splits
from sidetune.edge.client import Client
from sidetune.edge.enroll import enroll
from sidetune.edge.features import DONE, FeatureFile, create
from sidetune.edge.images import read_items
from sidetune.edge.status import status
from sidetune.edge.transport import Reply, Unreachable
from sidetune.errors import DataError, NoSpace, ServiceError, WeightsMismatch
from sidetune.seam.taps import sum_of_taps
from sidetune.serve.local import Local


@pytest.fixture
def local():
    return tiny_service()


@pytest.fixture
def flaky(local):
    return Flaky(local)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("sidetune.edge.client.FIRST_DELAY", 0.001)


@pytest.fixture
def client(flaky):
    return Client(flaky, "tiny", patience=1)


def records(path, ks=(4,)):
    """What the file holds, by path of the image."""
    with FeatureFile(path) as file:
        assert (file.states == DONE).all() and not file.damaged(ks)
        return {item.path: [file.record(i, k).tobytes() for k in ks] for i, item in enumerate(file.header.images)}


def test_the_folder_is_read_as_pytorch_reads_it(folder, tmp_path):
    shutil.rmtree(folder / "val")
    flat = tmp_path / "flat"
    shutil.copytree(folder / "train", flat)
    for root in (folder, flat):
        splits = read_splits(root)
        classes, items = read_items(root)
        assert classes == splits.train.classes
        for part, samples in splits.parts().items():
            found = sorted((i.path, i.label) for i in items if i.part == part)
            expected = zip(samples.images, samples.labels, strict=True)
            assert found == sorted((p.relative_to(root).as_posix(), label) for p, label in expected)


def test_features_in_the_file_are_those_of_the_backbone(client, folder, tmp_path):
    header = enroll(client, folder, tmp_path / "f", ks=[2, 4], precision="fp32")
    model = sidetune.adapt(tiny_backbone("vit"), "mist", num_classes=3, transform="vtab", k=2)
    prepare = model.transform.evaluation()
    out = np.empty((1, 17, 48), np.float32)
    with FeatureFile(tmp_path / "f") as file:
        for i, item in enumerate(header.images):
            pixels = prepare(Image.open(folder / item.path).convert("RGB"))
            with torch.no_grad():
                expected = model.features(pixels[None])[sum_of_taps(2)].numpy()
            assert np.allclose(file.batch([i], 2, out), expected, atol=1e-5)


def test_a_client_enrols_again(client, folder, tmp_path):
    for name in ("one", "two"):
        enroll(client, folder, tmp_path / name, ks=[4])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_every_image_is_sent_once_and_a_finished_file_asks_for_nothing(client, flaky, folder, tmp_path):
    header = enroll(client, folder, tmp_path / "f", ks=[2, 4], in_flight=3)
    assert flaky.num_asked == len(header.images) == 48
    client.stop.clear()
    enroll(client, folder, tmp_path / "f", ks=[2, 4])
    assert flaky.num_asked == 48


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_zstd_travels_packed_and_lies_unpacked(local, folder, tmp_path, precision):
    for compression in ("none", "zstd"):
        enroll(Client(local, "tiny"), folder, tmp_path / compression, precision=precision, compression=compression)
    assert records(tmp_path / "none") == records(tmp_path / "zstd")


def test_lost_connections_busy_services_and_nonsense_are_asked_again(local, folder, tmp_path):
    faults = [
        Unreachable("the network is down"),
        Reply(status=503, body=b"{}", headers={"retry-after": "0"}),
        Reply(status=429, body=b"{}"),
        Reply(status=500, body=b"oops"),
        Reply(status=200, body=b"\0\0", headers={"inference-header-content-length": "2"}),
        Reply(status=200, body=b"{}"),
    ]
    enroll(Client(local, "tiny"), folder, tmp_path / "good")
    flaky = Flaky(local, faults)
    enroll(Client(flaky, "tiny"), folder, tmp_path / "f")
    assert not flaky.faults and flaky.num_asked == 48 + len(faults)
    assert records(tmp_path / "f") == records(tmp_path / "good")


def test_it_waits_as_long_as_the_service_says(local, monkeypatch):
    waits = []
    client = Client(Flaky(local, [Reply(status=503, body=b"{}", headers={"retry-after": "7"})]), "tiny")
    monkeypatch.setattr(client.stop, "wait", lambda seconds: waits.append(seconds))
    with pytest.raises(DataError, match="none of JPEG, PNG, WEBP"):
        client.features(b"no image", [], client.card())
    assert len(waits) == 1 and 7 <= waits[0] < 7.1


def test_a_stopped_enrolment_goes_on_and_sends_only_what_is_missing(local, folder, tmp_path):
    enroll(Client(local, "tiny"), folder, tmp_path / "good")
    first = Flaky(local, [None] * 20 + [Reply(status=403, body=b"{}")] * 9)
    with pytest.raises(ServiceError, match="refuses the key"):
        enroll(Client(first, "tiny"), folder, tmp_path / "f", in_flight=1)
    assert status(tmp_path / "f")["complete"] is False
    second = Flaky(local)
    enroll(Client(second, "tiny"), folder, tmp_path / "f")
    assert second.num_asked == 48 - 20
    assert records(tmp_path / "f") == records(tmp_path / "good")


def test_a_record_that_a_power_cut_left_half_written_is_fetched_again(local, folder, tmp_path):
    path = tmp_path / "f"
    enroll(Client(local, "tiny"), folder, path)
    good = records(path)
    with FeatureFile(path) as file:
        place = file.place(5, 4)
    with path.open("r+b") as file:
        file.seek(place + 100)
        file.write(bytes(50))
    assert status(path)["complete"] is False
    flaky = Flaky(local)
    enroll(Client(flaky, "tiny"), folder, path)
    assert flaky.num_asked == 1 and records(path) == good


def test_images_that_cannot_be_read_are_named_and_left_out_only_if_that_was_asked_for(client, flaky, folder, tmp_path):
    bad = next((folder / "train" / "dark").iterdir())
    bad.write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"1 of 48 images could not be read: train/dark/{bad.name}"):
        enroll(client, folder, tmp_path / "f")
    client.stop.clear()
    enroll(client, folder, tmp_path / "f", skip_bad=True)
    told = status(tmp_path / "f")
    assert told["complete"] and told["images"]["train"]["refused"] == 1
    assert flaky.num_asked == 48


def test_a_file_that_lists_the_images_in_another_order_is_gone_on_with(local, folder, tmp_path):
    """Version 0.1 listed a folder without parts by class, later ones by part."""
    header = enroll(Client(local, "tiny"), folder, tmp_path / "good")
    create(tmp_path / "f", replace(header, images=header.images[::-1]))
    first = Flaky(local, [None] * 20 + [Reply(status=403, body=b"{}")] * 9)
    with pytest.raises(ServiceError, match="refuses the key"):
        enroll(Client(first, "tiny"), folder, tmp_path / "f", in_flight=1)
    second = Flaky(local)
    assert enroll(Client(second, "tiny"), folder, tmp_path / "f").images == header.images[::-1]
    assert second.num_asked == 48 - 20 and records(tmp_path / "f") == records(tmp_path / "good")


def test_a_service_with_other_weights_is_refused(client, folder, tmp_path):
    enroll(client, folder, tmp_path / "f")
    other = Local(tiny_backbone("vit", seed=1), transform="vtab", name="tiny")
    with pytest.raises(WeightsMismatch, match="cannot be gone on with: .* digest"):
        enroll(Client(other, "tiny"), folder, tmp_path / "f")


def test_weights_that_change_in_the_middle_are_noticed(local, folder, tmp_path):
    other = Local(tiny_backbone("vit", seed=1), transform="vtab", name="tiny")

    class Changing(Flaky):
        def send(self, path, body=None, headers=None):
            if self.num_asked == 10:
                self.inner = other
            return super().send(path, body, headers)

    with pytest.raises(WeightsMismatch, match="digest"):
        enroll(Client(Changing(local), "tiny"), folder, tmp_path / "f", in_flight=1)


def test_other_choices_than_the_file_was_begun_with_are_refused(client, folder, tmp_path):
    enroll(client, folder, tmp_path / "f")
    for choices, named in (({"ks": [2]}, "ks"), ({"precision": "fp16"}, "precision")):
        with pytest.raises(DataError, match=f"begun with other {named}"):
            enroll(client, folder, tmp_path / "f", **choices)
    (folder / "train" / "dark" / "new.png").write_bytes(b"x")
    with pytest.raises(DataError, match="begun with other images"):
        enroll(client, folder, tmp_path / "f")


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_sent(client, flaky, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(NoSpace, match="has 0 MiB left"):
        enroll(client, folder, tmp_path / "f")
    assert flaky.num_asked == 0 and os.listdir(tmp_path) == ["squares"]


def test_a_k_that_the_backbone_does_not_have_is_refused(client, folder, tmp_path):
    with pytest.raises(ValueError, match="k is at most that; got 5"):
        enroll(client, folder, tmp_path / "f", ks=[5])
    assert not (tmp_path / "f").exists()


def test_two_enrolments_into_one_file_do_not_mix(client, folder, tmp_path):
    enroll(client, folder, tmp_path / "f")
    with FeatureFile(tmp_path / "f", writable=True), pytest.raises(DataError, match="another process is writing"):
        enroll(client, folder, tmp_path / "f")


def test_a_service_that_never_answers_is_given_up(folder, tmp_path):
    class Silent:
        def send(self, path, body=None, headers=None):
            raise Unreachable("connection refused")

    with pytest.raises(ServiceError, match="has not answered"):
        enroll(Client(Silent(), "tiny", patience=0.01), folder, tmp_path / "f")


@pytest.mark.parametrize("damage", ["cut", "header", "other"])
def test_files_that_are_not_whole_are_refused(client, folder, tmp_path, damage):
    path = tmp_path / "f"
    enroll(client, folder, path)
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[40] ^= 255
    path.write_bytes({"cut": data[:-1], "header": data, "other": b"something else"}[damage])
    with pytest.raises(DataError, match="cut off|header|no file of features"):
        FeatureFile(path)


def test_waiting_threads_end_with_the_enrolment(local, folder, tmp_path):
    before = threading.active_count()
    enroll(Client(local, "tiny"), folder, tmp_path / "f", in_flight=8)
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join(5)
    assert threading.active_count() == before


def test_status_is_plain_data(client, folder, tmp_path):
    enroll(client, folder, tmp_path / "f", ks=[4, 2, 4])
    told = json.loads(json.dumps(status(tmp_path / "f")))
    assert told["ks"] == [2, 4] and told["images"]["train"]["there"] == 33 and told["bytes_per_image"] == 2 * 1042
