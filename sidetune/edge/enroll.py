"""Every image of a folder is sent once; its features are kept in a file. A stopped enrolment goes on where it was."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidetune.data.layout import Layout
from sidetune.edge.client import Client, differing
from sidetune.edge.features import DONE, MISSING, REFUSED, FeatureFile, Header, create
from sidetune.edge.images import Item, read_items
from sidetune.errors import DataError, WeightsMismatch
from sidetune.wire.ask import Ask
from sidetune.wire.metadata import ModelCard

SYNC_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    done: int
    total: int
    sent: int
    """Bytes of images, in this run."""
    received: int
    """Bytes of features, in this run, as kept."""
    seconds_left: float
    """At the mean speed so far."""


def enroll(
    client: Client,
    folder: Path,
    out: Path,
    *,
    ks: Sequence[int] | None = None,
    precision: str = "int8",
    compression: str = "none",
    in_flight: int = 4,
    skip_bad: bool = False,
    layout: Layout = "auto",
    report: Callable[[Enrolled], None] = lambda _: None,
) -> Header:
    """Send what `out` does not hold yet; returns the header of the finished file.

    The sums of taps up to each of `ks` are kept, by default up to N alone. Raises DataError for a folder, or a file
    begun with other choices, that does not fit, and at the end for images that cannot be read (`skip_bad` leaves them
    out, unless a class would be empty without them); WeightsMismatch for a service other than the file was begun with;
    NoSpace, before anything is sent, if the disk cannot hold the features. `layout` is that of
    `sidetune.data.folders.read_splits`.
    """
    card = client.card()
    classes, images = read_items(folder, layout)
    ks = tuple(sorted(set(ks))) if ks else (card.num_blocks,)
    header = Header(card=card, ks=ks, precision=precision, classes=classes, images=images)
    asks = header.asks(compression)
    for ask in asks:
        card.shape(ask)
    if not out.exists():
        create(out, header)
    with FeatureFile(out, writable=True) as file:
        check_same(file.header, header, out)
        if changed := others(file, images):
            client.notice(f"{len(changed):,} images have changed since they were sent, and are sent again")
        for image in {*file.damaged(ks), *changed}:
            file.mark(image, MISSING, [0] * len(ks))
        again = (MISSING,) if skip_bad else (MISSING, REFUSED)
        todo = [i for i, state in enumerate(file.states) if state in again]
        send(client, card, folder, file, todo, asks, in_flight, report)
        check_kept(file.header, file.states, out, skip_bad=skip_bad)
        return file.header


def check_same(found: Header, asked: Header, out: Path) -> None:
    """Raises unless a file was begun with what is asked for now; that images have other sizes is looked at later."""
    if found.card.fingerprint != asked.card.fingerprint:
        raise WeightsMismatch(f"{out} cannot be gone on with: {differing(found.card, asked.card)}")
    for name in ("ks", "precision", "classes"):
        if getattr(found, name) != getattr(asked, name):
            shown = f"{getattr(found, name)}, now {getattr(asked, name)}"
            raise DataError(f"{out} was begun with other {name} ({shown}); choose another file for these")
    before, now = ({(item.path, item.label, item.part) for item in header.images} for header in (found, asked))
    if before != now:
        some = ", ".join(sorted(path for path, _, _ in before ^ now)[:3])
        raise DataError(f"{out} was begun with other images ({some}, for example); choose another file for these")


def others(file: FeatureFile, images: Sequence[Item]) -> list[int]:
    """Images that were sent, but as a file of another size. The lists may have other orders."""
    sizes = {item.path: item.size for item in images}
    return [
        i for i, item in enumerate(file.header.images) if item.size != sizes[item.path] and file.states[i] != MISSING
    ]


def check_kept(header: Header, states: np.ndarray, out: Path, *, skip_bad: bool) -> None:
    """Raises DataError for images that the service could not read, unless they are skipped and no class needs them."""
    refused = [item for item, state in zip(header.images, states, strict=True) if state == REFUSED]
    if not refused:
        return
    names = ", ".join(item.path for item in refused[:5]) + (f" and {len(refused) - 5} more" if refused[5:] else "")
    what = f"{len(refused):,} of {len(header.images):,} images could not be read: {names}"
    if not skip_bad:
        raise DataError(
            f"{what}; the others are in {out}. Mend them and enrol again, or leave them out with --skip-bad"
        )
    kept = [item for item, state in zip(header.images, states, strict=True) if state == DONE]
    emptied = labels_of(header.images) - labels_of(kept)
    if emptied:
        classes = ", ".join(header.classes[label] for label in sorted(emptied))
        raise DataError(f"without its bad images a class is empty: {classes}; {what}. Mend some and enrol again")


def labels_of(images: Sequence[Item]) -> set[int]:
    return {item.label for item in images if item.part == "train"}


def send(
    client: Client,
    card: ModelCard,
    folder: Path,
    file: FeatureFile,
    todo: Sequence[int],
    asks: Sequence[Ask],
    in_flight: int,
    report: Callable[[Enrolled], None],
) -> None:
    """Several threads ask, this one writes."""
    images, ks = file.header.images, file.header.ks
    stop = client.stop = threading.Event()  # of this enrolment: the client may serve another
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    answers: queue.Queue[tuple[int, dict[str, bytes | memoryview] | Exception]] = queue.Queue(in_flight)
    for image in todo:
        jobs.put(image)

    def work() -> None:
        while not stop.is_set():
            try:
                image = jobs.get_nowait()
            except queue.Empty:
                return
            try:
                answer: dict[str, bytes | memoryview] | Exception
                answer = client.features_of(folder / images[image].path, asks, card)
            except Exception as e:
                answer = e
            answers.put((image, answer))

    for _ in range(min(in_flight, len(todo))):
        threading.Thread(target=work, daemon=True).start()
    start = synced = time.monotonic()
    sent = received = 0
    try:
        for number in range(1, len(todo) + 1):
            image, answer = answers.get()
            sent += images[image].size
            if isinstance(answer, DataError):
                client.notice(f"{images[image].path}: {answer}")
                file.mark(image, REFUSED, [0] * len(ks))
            elif isinstance(answer, Exception):
                raise answer
            else:
                file.put(image, {k: answer[ask.name] for k, ask in zip(ks, asks, strict=True)})
                received += len(ks) * file.header.record_bytes
            if (now := time.monotonic()) - synced > SYNC_SECONDS:
                file.sync()
                synced = now
            left = (now - start) / number * (len(todo) - number)
            done = int((file.states == DONE).sum())
            report(Enrolled(done=done, total=len(images), sent=sent, received=received, seconds_left=left))
    finally:
        stop.set()
        file.sync()
        while not answers.empty():  # lets threads go that wait to hand in
            answers.get_nowait()
