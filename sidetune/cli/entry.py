"""Where `sidetune` starts: what the small device runs is reached before anything larger is imported."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what a terminal or UTF-8 cannot
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # other libraries warn their callers, who are not the user
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
