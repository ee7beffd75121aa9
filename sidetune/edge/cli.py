"""`sidetune edge enroll | fit | predict | status`, by argparse: a small device needs no other package for it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidetune.errors import DataError, DataWarning, SidetuneError

if TYPE_CHECKING:
    from sidetune.edge.client import Client
    from sidetune.edge.enroll import Enrolled
    from sidetune.train.epoch import Epoch

STOPPED, WRONG = 130, 2
SAY_SECONDS = 10.0


def main(words: Sequence[str], program: str = "sidetune edge") -> None:
    """Run a verb. What a user can mend is one message without a traceback; our own slips keep theirs."""
    given = parser(program).parse_args(words)
    warnings.simplefilter("always", DataWarning)
    warnings.showwarning = lambda message, *_, **__: say(f"note: {message}")
    try:
        given.run(given)
    except KeyboardInterrupt:
        say("stopped; the same command goes on" + (" with --resume" if given.verb == "fit" else ""))
        sys.exit(STOPPED)
    except BrokenPipeError:  # whoever read our output has gone
        sys.stderr.close()
        sys.exit(WRONG)
    except (SidetuneError, ValueError, OSError) as e:
        say(f"error: {e}")
        sys.exit(WRONG)


def parser(program: str) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(program, description="Train on a small device what a feature service sees in images.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    service = argparse.ArgumentParser(add_help=False)
    service.add_argument("--server", required=True, metavar="URL", help="http://HOST:PORT or https://HOST:PORT")
    service.add_argument("--model", help="the backbone's name there; may be left out where the service has one only")
    service.add_argument("--key-file", type=Path, metavar="FILE", help="file with the API key")
    service.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="certificate to trust, for a server that signs its own"
    )
    service.add_argument("--precision", default="int8", help="fp32, fp16, int8 (the default) or int4")
    service.add_argument("--compression", default="none", help="none (the default) or zstd")
    service.add_argument(
        "--patience",
        type=float,
        default=900,
        metavar="SECONDS",
        help="wait so long for a lost network, or for a service that says 'later' to everything",
    )
    service.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be read, and say which")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print the result as JSON")

    enroll = verbs.add_parser(
        "enroll", parents=[service, output], help="send images once, keep their features in a file"
    )
    enroll.add_argument(
        "folder", type=Path, help="folder with train/CLASS/*.jpg (and val/, test/), or of classes alone"
    )
    enroll.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the file; goes on with one that is there"
    )
    enroll.add_argument(
        "--k", type=numbers, metavar="K,K", help="sums of taps to keep, for example 6,12; all taps if not given"
    )
    enroll.add_argument("--in-flight", type=int, default=4, metavar="N", help="requests at once")
    enroll.add_argument(
        "--layout",
        choices=("auto", "parts", "classes"),
        default="auto",
        help="what the folders are, where their names leave it open",
    )
    enroll.set_defaults(run=run_enroll)

    fit = verbs.add_parser("fit", parents=[output], help="train on a file of features, without a network")
    fit.add_argument("file", type=Path, nargs="?", help="may be left out with --resume: the run's own")
    fit.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the run and the model")
    fit.add_argument(
        "--k",
        type=number_or_auto,
        help="which sum of taps, or auto: what validation images prefer; the largest in the file if not given",
    )
    fit.add_argument("--lr", type=float, help="learning rate")
    fit.add_argument("--epochs", type=int, help="100 if not given")
    fit.add_argument("--batch-size", type=int, metavar="N", help="32 if not given")
    fit.add_argument(
        "--micro-batch", type=int, metavar="N", help="images in work at once; less memory, the same gradient"
    )
    fit.add_argument("--rank", type=int, help="32 if not given")
    fit.add_argument("--layers", type=int, help="4 if not given")
    fit.add_argument("--pool", help="mean (of the patches, the default) or token (the class token)")
    fit.add_argument("--seed", type=int, help="0 if not given")
    fit.add_argument("--threads", type=int, metavar="N", help="cores to use; all (4 at most), or OMP_NUM_THREADS")
    fit.add_argument(
        "--checkpoint-seconds", type=float, default=60, metavar="S", help="how much work a power cut may cost"
    )
    fit.add_argument(
        "--resume", action="store_true", help="go on with the run in the output folder, by the choices it has"
    )
    fit.add_argument("--overwrite", action="store_true", help="replace what the output folder holds")
    fit.set_defaults(run=run_fit)

    predict = verbs.add_parser("predict", parents=[service, output], help="label images")
    predict.add_argument("folder", type=Path, help="folder of a trained model")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    predict.add_argument("--top", type=int, default=1, metavar="N", help="how many labels to give for an image")
    predict.set_defaults(run=run_predict)

    status = verbs.add_parser("status", parents=[output], help="what a file of features holds")
    status.add_argument("file", type=Path)
    status.set_defaults(run=run_status)
    return top


def numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between, got {text!r}") from None


def number_or_auto(text: str) -> int | str:
    if text != "auto" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number or auto, got {text!r}")
    return text if text == "auto" else int(text)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Line:
    """How far an enrolment is: one line that changes on a terminal, now and then a new one elsewhere."""

    def __init__(self) -> None:
        self.said, self.terminal = 0.0, sys.stderr.isatty()

    def __call__(self, now: Enrolled) -> None:
        if time.monotonic() - self.said < (0.1 if self.terminal else SAY_SECONDS) and now.done < now.total:
            return
        self.said = time.monotonic()
        minutes, seconds = divmod(round(now.seconds_left), 60)
        text = (
            f"{now.done:,} of {now.total:,} images, {now.sent / 2**20:,.1f} MiB sent, "
            f"{now.received / 2**20:,.1f} MiB received, {minutes}:{seconds:02} left"
        )
        if self.terminal:
            print(f"\r\x1b[K{text}", end="" if now.done < now.total else "\n", file=sys.stderr, flush=True)
        else:
            say(text)

    def notice(self, text: str) -> None:
        say(f"\r\x1b[K{text}" if self.terminal else text)


def client_of(given: argparse.Namespace, line: Line) -> Client:
    from sidetune.edge.client import Client, only_model
    from sidetune.edge.http import Http

    key = given.key_file.read_text(encoding="utf-8").strip() if given.key_file else None
    transport = Http(given.server, key=key, ca_file=given.ca_file)
    if transport.shows_key:
        line.notice(
            f"warning: http://{transport.host} is not encrypted, and whoever can listen on the way reads the API key; "
            "use https:// (--ca-file, where the server signs its own certificate), or a tunnel"
        )
    client = Client(transport, given.model or "", patience=given.patience, notice=line.notice)
    client.model = given.model or only_model(client)
    return client


def run_enroll(given: argparse.Namespace) -> None:
    from sidetune.edge.enroll import enroll
    from sidetune.edge.status import num_kept

    if given.in_flight < 1:
        raise ValueError(f"--in-flight must be at least 1, got {given.in_flight}")
    line = Line()
    header = enroll(
        client_of(given, line),
        given.folder,
        given.out,
        ks=given.k,
        precision=given.precision,
        compression=given.compression,
        in_flight=given.in_flight,
        skip_bad=given.skip_bad,
        layout=given.layout,
        report=line,
    )
    if given.json:
        run_status(argparse.Namespace(file=given.out, json=True))
        return
    kept, total = num_kept(given.out), len(header.images)
    of_all = f"{kept:,} of {total:,}" if kept < total else f"{total:,}"
    print(f"{given.out}: features of {of_all} images; train with")
    print(f"  sidetune edge fit {shlex.quote(str(given.out))} --out FOLDER")


def run_fit(given: argparse.Namespace) -> None:
    threads = given.threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or min(os.cpu_count() or 1, 4)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported; a batch is shared out as a whole
    from sidetune.edge.artefact import Choices
    from sidetune.edge.choose import choose_k
    from sidetune.edge.trainer import fit
    from sidetune.recipe import Recipe
    from sidetune.saved import from_saved
    from sidetune.train.folder import Folder, recipe_of

    recipe, choices, file = Recipe(epochs=100, batch_size=32, lr_update="step"), Choices(), given.file
    before = Folder(given.out).asked() if given.resume else None
    if before is not None:
        recipe, choices = recipe_of(before), from_saved(Choices, before["method"])
        file = file or before.get("about", {}).get("file")
    elif given.resume:
        say(f"nothing to resume in {given.out}; a run begins")
    if file is None:
        raise DataError(f"name the file of features to train on ({given.out} does not say one)")
    file, recipe = Path(file), named(recipe, given, "epochs", "batch_size", "lr", "micro_batch", "seed")
    choices = named(choices, given, "k", "rank", "layers", "pool")

    def report(epoch: Epoch, total: int) -> None:
        val = "" if epoch.val_accuracy is None else f"  val {100 * epoch.val_accuracy:5.1f} %"
        say(f"epoch {epoch.epoch:>3}/{total}  loss {epoch.loss:.4f}{val}  lr {epoch.lr:.1e}  {epoch.seconds:.1f} s")

    def tried(k: int, val_accuracy: float) -> None:
        say(f"k {k}: val {100 * val_accuracy:.1f} %")

    how = {"recipe": recipe, "resume": given.resume, "overwrite": given.overwrite, "threads": threads}
    if given.k == "auto" and before is None:
        choices = replace(choices, k=choose_k(file, given.out, choices=choices, report=tried, **how))
    done = fit(
        file,
        given.out,
        choices=choices,
        checkpoint_seconds=given.checkpoint_seconds,
        report=report,
        **how,
    )
    if given.json:
        result = {"out": str(given.out), "k": done.k, "accuracy": done.accuracy, "num_parameters": done.num_parameters}
        result["peak_bytes"] = peak_bytes()
        print(json.dumps({**result, "history": [asdict(e) for e in done.history]}))
        return
    print(f"sum of taps up to k = {done.k}")
    for part, accuracy in done.accuracy.items():
        print(f"{part} accuracy {100 * accuracy:.2f} %")
    if peak := peak_bytes():
        print(f"{peak / 2**20:.0f} MiB of memory at most, Python included")
    print(f"model in {given.out}; try: sidetune edge predict {shlex.quote(str(given.out))} IMAGE --server URL")


def named(value: Any, given: argparse.Namespace, *names: str) -> Any:
    """Choices with those of these names that the command line gives."""
    words = {name: getattr(given, name) for name in names}
    return replace(value, **{name: word for name, word in words.items() if word not in (None, "auto")})


def peak_bytes() -> int | None:
    """The largest resident set of this process so far; None where the system does not say (it is not Linux)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def run_predict(given: argparse.Namespace) -> None:
    from sidetune.data.files import images_under
    from sidetune.edge.artefact import load
    from sidetune.edge.predict import predict

    if given.top < 1:
        raise ValueError(f"--top must be at least 1, got {given.top}")
    paths = [found for path in given.images for found in (images_under(path) if path.is_dir() else [path])]
    if not paths:
        raise DataError(f"no images in {', '.join(map(str, given.images))}")
    client = client_of(given, Line())
    artefact = load(given.folder, client.card())
    found = predict(
        client,
        artefact,
        paths,
        top=given.top,
        precision=given.precision,
        compression=given.compression,
        on_bad=skipped if given.skip_bad else None,
    )
    if given.json:
        rows = [{"image": str(p.image), "top": [list(t) for t in p.top]} for p in found]
        print(json.dumps(rows, ensure_ascii=False))
        return
    for p in found:
        print(f"{p.image}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in p.top), flush=True)


def skipped(error: DataError) -> None:
    say(f"skipped: {error}")


def run_status(given: argparse.Namespace) -> None:
    from sidetune.edge.status import status

    told = status(given.file)
    if given.json:
        print(json.dumps(told, ensure_ascii=False))
        return
    print(f"{told['model']}, weights {told['digest'][:12]}..., {told['tokens']} x {told['width']} numbers an image")
    print(f"k {', '.join(map(str, told['ks']))} in {told['precision']}, {told['bytes_per_image']:,} bytes an image")
    for part, counts in told["images"].items():
        print(f"{part}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    print(f"{told['kept']:,} of {told['total']:,} images kept")
    state = "complete" if told["complete"] else "not complete"
    print(f"{told['classes']} classes; {told['bytes'] / 2**20:,.1f} MiB on disk; {state}")
