"""The device's memory at the shapes of ViT-B/16, as the operating system sees it."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_whole_process_stays_small(tmp_path):
    from edge import memory, write_file

    write_file(tmp_path / "features")
    peaks = memory(tmp_path, tmp_path / "features", threads=2)
    assert peaks["fit"] <= 128 and peaks["predict"] <= 64 and peaks["enroll"] <= 64
