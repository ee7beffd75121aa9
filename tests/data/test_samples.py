"""Samples as values: what their digests tell apart."""

import os
import shutil
from dataclasses import replace

from sidetune.data.folders import read_folder


def test_the_digest_is_that_of_bytes_and_labels_wherever_the_files_lie(folder, tmp_path):
    first = read_folder(folder / "train")
    shutil.copytree(folder, tmp_path / "moved")
    moved = read_folder(tmp_path / "moved/train")
    os.utime(moved.images[0], (0, 0))
    assert moved.digest() == first.digest()
    assert moved.fingerprint() != first.fingerprint()


def test_the_digest_changes_with_bytes_labels_names_and_order(folder, samples):
    for first in (read_folder(folder / "train"), samples):
        turned = first.subset(range(len(first))[::-1])
        swapped = replace(first, labels=[2 - label for label in first.labels])
        renamed = replace(first, classes=("a", "b", "c"))
        others = [s.digest() for s in (turned, swapped, renamed, first.subset(range(3)))]
        assert len({first.digest(), *others}) == 5
    path = read_folder(folder / "train").images[4]
    before = read_folder(folder / "train").digest()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert read_folder(folder / "train").digest() != before
