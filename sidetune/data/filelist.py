"""File lists in VTAB-1k's layout: text files of `path label` lines beside the images."""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidetune.data.names import find, named, printable
from sidetune.data.samples import Samples, Splits
from sidetune.errors import DataError, DataWarning

LISTS = ("train800.txt", "val200.txt", "train800val200.txt", "test.txt")
LINE = re.compile(r"\s*(?P<quote>[\"']?)(?P<name>.+?)(?P=quote)[\s,;]+0*(?P<label>\d{1,6})\s*")
"""A path, perhaps in quotes, then white space, a comma or a semicolon, then the label; no set has 10^6 classes."""
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, kw_only=True)
class Line:
    number: int
    """In the file, from 1."""
    name: str
    label: int


def read_list(
    path: str | Path,
    root: str | Path | None = None,
    num_classes: int | None = None,
    *,
    first: int | None = None,
    skip_missing: bool = False,
) -> Samples:
    """Read lines of `path label`; paths are relative to `root`, by default the list's own folder.

    The label is the last word of a line, so paths may hold spaces; a tab, comma or semicolon may stand before it. UTF-8
    and UTF-16 with their marks, a line of headings, and Windows' backslashes are understood. Labels count from `first`,
    by default 1 if the smallest is 1 and 0 otherwise; classes are called by their numbers, up to `num_classes` of them
    or the largest seen. Raises DataError with the line's number for a line that does not fit or whose file is missing
    (`skip_missing` leaves these out, with a warning).
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    lines = list(lines_of(path))
    if not lines:
        raise DataError(f"the file list {path} is empty")
    first = first_label(lines) if first is None else first
    count = max(line.label for line in lines) + 1 - first if num_classes is None else num_classes
    for line in lines:
        if not first <= line.label < first + count:
            raise DataError(
                f"{path}, line {line.number}: label {line.label}, but the training images have only classes "
                f"{first} to {first + count - 1}"
            )
    found = [(line, find(root, line.name)) for line in lines]
    if missing := [line for line, file in found if file is None]:
        report_missing(path, root, missing, skip=skip_missing)
    there = [(line, file) for line, file in found if file is not None]
    if not there:
        raise DataError(f"none of the {len(lines):,} files that {path} names is under {root}")
    return Samples(
        images=[file for _, file in there],
        labels=[line.label - first for line, _ in there],
        classes=tuple(str(first + i) for i in range(count)),
    )


def report_missing(path: Path, root: Path, missing: list[Line], *, skip: bool) -> None:
    lines = named([f"line {line.number} ({printable(line.name)})" for line in missing])
    told = f"{path} names {len(missing):,} files that are not under {root}: {lines}"
    if not skip:
        raise DataError(f"{told}; correct the list, or leave them out with --skip-bad (skip_bad=True)")
    warnings.warn(told, DataWarning, stacklevel=3)


def lines_of(path: Path) -> Iterator[Line]:
    """What a list says, without a line of headings, comments and empty lines."""
    for number, text in enumerate(decoded(path).splitlines(), start=1):
        if found := LINE.fullmatch(text):
            yield Line(number=number, name=found["name"], label=int(found["label"]))
        elif text.strip() and not text.lstrip().startswith("#") and not (number == 1 and is_heading(text)):
            raise DataError(
                f"{path}, line {number}: expected 'path label' with a label of 0 or more, and white space, a comma "
                f"or a semicolon between, got {printable(text[:200])!r}"
            )


def decoded(path: Path) -> str:
    """A list's text. Bytes that are no UTF-8 stay as they are, for names of files may be none either."""
    if not path.is_file():
        raise DataError(f"no file list at {path}")
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding, "strict" if encoding == "utf-16" else "surrogateescape")
    except UnicodeDecodeError as e:
        raise DataError(f"{path} begins as UTF-16 but is damaged at byte {e.start}; save it as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}, line {line}: holds NUL bytes, as UTF-16 without its mark does; save it as UTF-8")
    return text


def is_heading(text: str) -> bool:
    """Whether a line names columns: words without a digit, none of them a file's name."""
    words = [word.strip("\"' ") for word in re.split(r"[\s,;]+", text.strip())]
    return len(words) > 1 and not any(re.search(r"\d", word) or Path(word).suffix for word in words)


def first_label(lines: list[Line]) -> int:
    """Where labels begin."""
    return 1 if min(line.label for line in lines) == 1 else 0


def read_vtab(root: str | Path, *, tune: bool = False, skip_missing: bool = False) -> Splits:
    """A VTAB-1k folder: train800val200 / test for the final run, or, to `tune`, train800 / val200 / test."""
    root = Path(root)
    everything = [line for name in LISTS if (root / name).is_file() for line in lines_of(root / name)]
    first = first_label(everything) if everything else 0
    names = ("train800.txt", "val200.txt", "test.txt") if tune else ("train800val200.txt", "test.txt")
    train = read_list(root / names[0], first=first, skip_missing=skip_missing)
    *val, test = (
        read_list(root / name, num_classes=len(train.classes), first=first, skip_missing=skip_missing)
        for name in names[1:]
    )
    return Splits(name=printable(root.resolve().name), train=train, val=val[0] if val else None, test=test)
