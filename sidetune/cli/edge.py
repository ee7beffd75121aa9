"""`sidetune edge ...`: handed on as it is to `sidetune.edge`, which a small device also runs by itself."""

from __future__ import annotations

import typer

AS_IT_IS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def edge_command(context: typer.Context) -> None:
    """The small device: enroll, fit, predict, status. Needs neither PyTorch nor a GPU."""
    from sidetune.edge.cli import main

    main(context.args)
