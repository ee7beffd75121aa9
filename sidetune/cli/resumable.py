"""`--resume` of a verb that trains many models: what it was asked for is in the output folder already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from sidetune.memo import Memo
from sidetune.runs.folder import ANSWERS

NOT_KEPT = ("out", "resume", "overwrite", "as_json")


class Resumable(TyperCommand):
    """A verb whose --resume takes from the folder that --out names what the command line leaves out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--resume" in args and (out := named_out(args)) is not None:
            kept = Memo(out / ANSWERS).about
            ctx.default_map = {**(ctx.default_map or {}), **kept}
            if not kept:
                typer.echo(f"nothing to resume in {out}; it begins", err=True)
        return super().parse_args(ctx, args)


def named_out(words: Sequence[str]) -> Path | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--out":
            return Path(following)
        if word.startswith("--out="):
            return Path(word.removeprefix("--out="))
    return None


def words_given(context: typer.Context) -> dict[str, Any]:
    """What the verb that is running was asked to do, as `Resumable` takes it up again."""
    from sidetune import saving
    from sidetune.data import sources

    asked = {name: value for name, value in context.params.items() if name not in NOT_KEPT}
    places = {"data": sources.placed, "backbone": saving.placed}
    return {name: places[name](value) if name in places and value else value for name, value in asked.items()}
