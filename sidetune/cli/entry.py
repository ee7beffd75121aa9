"""Where `sidetune` starts: what the small device runs is reached before anything larger is imported."""

from __future__ import annotations

import sys


def main() -> None:
    if sys.argv[1:2] == ["edge"]:
        from sidetune.edge.cli import main as device

        return device(sys.argv[2:])
    try:
        from sidetune.cli.main import main as verbs
    except ModuleNotFoundError as e:
        if e.name not in ("typer", "rich"):
            raise
        sys.exit(f"error: only `sidetune edge` works here, {e.name} is not installed; pip install sidetune")
    verbs()
