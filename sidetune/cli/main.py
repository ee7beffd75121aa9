"""`sidetune VERB`: every verb, and what a user sees when something is wrong."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

from sidetune.cli import (
    ablate,
    analyze,
    apply,
    compare,
    demo,
    edge,
    extract,
    fit,
    measure,
    methods,
    plan,
    rerun,
    serve,
    sizes,
)
from sidetune.cli.resumable import Resumable
from sidetune.errors import DataWarning, Interrupted, MissingExtra, SidetuneError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("fit")(fit.fit_command)
app.command("evaluate")(apply.evaluate_command)
app.command("predict")(apply.predict_command)
app.command("search", cls=Resumable)(sizes.search_command)
app.command("compare", cls=Resumable)(compare.compare_command)
app.command("ablate", cls=Resumable)(ablate.ablate_command)
app.command("rerun")(rerun.rerun_command)
app.command("extract")(extract.extract_command)
app.command("plan")(plan.plan_command)
app.command("measure")(measure.measure_command)
app.command("analyze")(analyze.analyze_command)
app.command("export")(apply.export_command)
app.command("merge")(apply.merge_command)
app.command("methods")(methods.methods_command)
app.command("recipes")(methods.recipes_command)
app.command("serve")(serve.serve_command)
app.command("edge", context_settings=edge.AS_IT_IS)(edge.edge_command)
app.command("demo")(demo.demo_command)

STOPPED, WRONG = 130, 2


@app.callback()
def before_all(
    imports: Annotated[
        list[str],
        typer.Option("--import", help="A Python module of yours to import first, such as one that adds a method."),
    ] = [],  # noqa: B006
) -> None:
    """Adapt large pretrained vision networks on small hardware."""
    if imports:
        sys.path.insert(0, "")
    for name in imports:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as e:
            raise ValueError(f"--import {name}: there is no module {e.name}, neither here nor installed") from e


def main() -> None:
    """Run the command line. What a user can mend is one message without a traceback; our own slips keep theirs."""
    console = Console(stderr=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = say
            app()
    except ModuleNotFoundError as e:
        if (e.name or "").startswith("sidetune"):
            raise
        fail(console, MissingExtra(f"this verb (it imports {e.name})", "train"), WRONG)
    except Interrupted as e:
        fail(console, e, STOPPED)
    except (SidetuneError, ValueError, OSError) as e:
        fail(console, of_worker(e), WRONG)


def say(message: Warning | str, *_: object, **__: object) -> None:
    """A warning, as a user of the command line reads it."""
    Console(stderr=True).print(f"note: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def of_worker(error: Exception) -> Exception:
    """An error that a process which reads images has met, without the traceback that torch puts in front of it."""
    _, met, message = str(error).partition(f"\n{type(error).__module__}.{type(error).__name__}: ")
    return type(error)(message.strip()) if met and "worker process" in str(error) else error


def fail(console: Console, error: BaseException, status: int) -> None:
    console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)
