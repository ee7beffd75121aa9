"""Where `sidetune` starts: what the small device runs is reached before anything larger is imported."""

from __future__ import annotations

import sys


def main() -> None:
    if sys.argv[1:2] == ["edge"]:
        from sidetune.edge.cli import main as device

        device(sys.argv[2:])
    else:
        from sidetune.cli.main import main as verbs

        verbs()
