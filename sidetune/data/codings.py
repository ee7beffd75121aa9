"""How the masks of a set say classes: decided once, over all masks that are trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sidetune.data.classnames import Named
from sidetune.data.masks import IGNORED, WRITE, By, Coding, misfit, strange
from sidetune.data.names import named, numbered, printable
from sidetune.data.survey import Seen, first_few, torn_palette
from sidetune.errors import DataError

BINARY = ("background", "foreground")
BLACK, WHITE, VOID, DEEP_VOID = 0, 255, 255, 65535
MOST_COLOURS, MOST_VALUES = 64, 1000
"""Classes that a set without a names file can have."""
SAY_COLOURS = "a labelmap.txt beside the masks says which are classes, in lines of 'name:red,green,blue::'"


@dataclass(frozen=True, kw_only=True)
class Decided:
    coding: Coding
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What there is to say of it."""


def decide(root: Path, seen: Sequence[Seen], file: Named | None, known: tuple[str, ...] | None) -> Decided:
    """The coding of masks, by what is `seen` of those to train on, the `file` of names, and the classes that a trained
    model has.

    Raises DataError where there is none, or one class only.
    """
    good = [mask for mask in seen if mask.is_good]
    by = channel(root, good, file)
    counts: Counter[int] = Counter()
    for mask in good:
        found = mask.by(by)
        if found is None:
            raise DataError(f"{printable(mask.path)} {misfit(by)}")
        counts.update(found)
    if file is None:
        decided = by_itself(root, good, counts, by, known)
    elif by == "colour":
        decided = by_map(root, file)
    else:
        decided = by_names(file, counts, by)
    check_values(good, decided.coding)
    if known is None:
        check_several(root, good, counts, decided)
    else:
        decided = renumbered(root, decided, known, file)
    notes = decided.notes + alpha_note(good)
    is_stored, told = frame_of_all(seen)
    return replace(decided, coding=replace(decided.coding, is_stored=is_stored), notes=notes + told)


def channel(root: Path, good: Sequence[Seen], file: Named | None) -> By:
    """By what masks say classes. Raises DataError where they differ in that."""
    with_colours = [mask for mask in good if mask.form == "colour"]
    torn = torn_palette(good)
    if file is not None and file.colours:
        colours = {colour for mask in good for colour in mask.by("colour") or ()}
        if with_colours or colours <= {*file.colours, *file.ignored}:
            return "colour"
    if not with_colours:
        if torn:
            raise DataError(f"the palettes of {root} contradict each other: {torn}; use one palette, or {SAY_COLOURS}")
        return "value"
    three = [mask for mask in good if mask.form in ("colour", "equal")]
    colours = {colour for mask in three for colour in mask.by("colour") or ()}
    others = [mask for mask in good if mask.form not in ("colour", "equal")]
    if len({colour & 0xFFFF for colour in colours}) == 1 and not others:
        return "red"
    if alien := [mask for mask in others if not set(mask.by("colour") or ()) <= colours]:
        raise DataError(
            f"{root} has {len(with_colours):,} masks in colours ({first_few(with_colours)}) and {len(others):,} with "
            f"one channel ({first_few(alien)}), which cannot mean the same; {SAY_COLOURS}"
        )
    return "colour"


def by_itself(root: Path, good: Sequence[Seen], counts: Counter[int], by: By, known: tuple[str, ...] | None) -> Decided:
    """The coding where no file says what is which."""
    values = sorted(counts)
    if by == "colour":
        if len(values) > MOST_COLOURS:
            raise DataError(
                f"{root}: masks have {len(values):,} colours, and at most {MOST_COLOURS} are classes by themselves: "
                f"{SAY_COLOURS}; if edges are smeared (JPEG, or resized), {WRITE}, without smoothing"
            )
        coding = Coding(by=by, classes=tuple((value, i) for i, value in enumerate(values)))
        names = tuple(map(coding.shown, values))
        return Decided(
            coding=coding, classes=names, notes=(f"every colour of the masks is a class: {named(names, 8)}",)
        )
    if set(values) == {BLACK, WHITE} or (known == BINARY and set(values) <= {BLACK, WHITE}):
        note = f"masks have the values {BLACK} and {WHITE} only: two classes, {' and '.join(BINARY)}"
        return Decided(coding=Coding(by=by, classes=((BLACK, 0), (WHITE, 1))), classes=BINARY, notes=(note,))
    if smeared := smear(good, counts):
        raise DataError(f"the masks in {root} {smeared}; they look smeared, by JPEG or resizing: {WRITE}")
    ignored = voids(values)
    kept = [value for value in values if value not in ignored]
    if len(kept) > MOST_VALUES:
        raise DataError(
            f"the masks in {root} have {len(kept):,} values, as numbers of objects are; at most {MOST_VALUES:,} are "
            f"classes without a classes.txt (one name a line)"
        )
    notes: tuple[str, ...] = ()
    if by == "red":
        notes = ("masks say classes in their red channel alone",)
    if kept != list(range(len(kept))):
        void = [value for value in values if value in ignored]
        beside = f"; {named(void)} is ignored" if void else ""
        notes += (f"the values {named(kept, 8)} of the masks are numbered 0 to {len(kept) - 1}{beside}",)
    coding = Coding(by=by, classes=tuple((value, i) for i, value in enumerate(kept)), ignored=ignored)
    return Decided(coding=coding, classes=tuple(map(str, kept)), notes=notes)


def voids(values: Sequence[int]) -> tuple[int, ...]:
    """Values that are no class: 255, unless it is one among neighbours of 16 bits, 65535, and -1."""
    ignored = [IGNORED]
    if not {VOID - 1, VOID, VOID + 1} <= set(values):
        ignored.append(VOID)
    return (*ignored, DEEP_VOID)


def smear(good: Sequence[Seen], counts: Counter[int]) -> str:
    """What is seen of black and white masks whose edges were smeared; nothing of others."""
    near_black = [value for value in counts if 0 < value < 32]
    near_white = [value for value in counts if 224 <= value < 255]
    clear = counts[BLACK] + counts[WHITE]
    if (
        min(len(near_black), len(near_white)) < 3
        or not counts[WHITE]
        or clear < counts.total() / 2
        or max(counts) > 255
    ):
        return ""
    first = next(mask for mask in good if len(mask.counts) > 2)
    return (
        f"are black and white but for {counts.total() - clear:,} pixels of {len(counts) - 2} values ({first.path.name})"
    )


def by_map(root: Path, file: Named) -> Decided:
    if not file.colours:
        raise DataError(
            f"the masks in {root} have colours, and {file.path.name} does not say which is what; {SAY_COLOURS}"
        )
    classes = tuple((colour, i) for i, colour in enumerate(file.colours))
    note = f"{file.path.name} has colours for what is no class, which are ignored" if file.ignored else ""
    coding = Coding(by="colour", classes=classes, ignored=file.ignored)
    return Decided(coding=coding, classes=file.names, notes=(note,) if note else ())


def by_names(file: Named, counts: Counter[int], by: By) -> Decided:
    values = file.values
    notes: tuple[str, ...] = ()
    there = set(counts) - {IGNORED, VOID, DEEP_VOID}
    if len(file.names) == 2 and values == (0, 1) and set(counts) == {BLACK, WHITE}:
        values, notes = (BLACK, WHITE), (f"{BLACK} is {file.names[0]} and {WHITE} is {file.names[1]}",)
    elif values == tuple(range(len(values))) and there and min(there) == 1 and max(there) == len(values):
        values, notes = tuple(range(1, len(values) + 1)), ("masks count classes from 1, for 0 is nowhere",)
    if file.colours:  # a map of colours for masks that have numbers
        notes += (f"masks hold numbers, which are taken for places in {file.path.name}, from 0",)
    ignored = (*(() if file.colours else file.ignored), *(v for v in (IGNORED, VOID, DEEP_VOID) if v not in values))
    coding = Coding(by=by, classes=tuple((value, i) for i, value in enumerate(values)), ignored=ignored)
    return Decided(coding=coding, classes=file.names, notes=notes)


def check_values(seen: Sequence[Seen], coding: Coding, why: str = "") -> None:
    """Raises DataError for the first mask that holds what is no class."""
    numbers = coding.numbers()
    for mask in seen:
        if not mask.is_good:
            continue
        found = mask.by(coding.by)
        if found is None:
            raise DataError(f"{printable(mask.path)} {misfit(coding.by)}")
        if odd := {value: count for value, count in found.items() if value not in numbers}:
            raise strange(mask.path, odd, coding, why)


def check_several(root: Path, good: Sequence[Seen], counts: Counter[int], decided: Decided) -> None:
    numbers = decided.coding.numbers()
    there = sorted({numbers[value] for value in counts} - {IGNORED})
    if len(there) > 1:
        return
    only = f"one class only ({decided.classes[there[0]]})" if there else "no class"
    why = ""
    if alpha := [mask for mask in good if mask.has_shape_in_alpha]:
        why = f"; the alpha channel varies in {len(alpha):,} of them, which is not read: save it as the mask"
    elif void := [decided.coding.shown(value) for value in counts if numbers[value] == IGNORED]:
        why = f"; {named(void)} is ignored"
    raise DataError(f"the {len(good):,} masks in {root} hold {only}{why}")


def renumbered(root: Path, decided: Decided, known: tuple[str, ...], file: Named | None) -> Decided:
    """The coding by the numbers of a trained model's classes. Raises DataError for a class that it does not have."""
    places = numbered(known)
    if strangers := [name for name in decided.classes if name not in numbered(known)]:
        hint = "" if file else "; a classes.txt beside the masks names their values"
        raise DataError(
            f"the masks in {root} have classes that the training images do not: {named(strangers)}; known: "
            f"{named(known, 20)}{hint}"
        )
    classes = tuple((value, places[decided.classes[number]]) for value, number in decided.coding.classes)
    return replace(decided, coding=replace(decided.coding, classes=classes), classes=known)


def alpha_note(good: Sequence[Seen]) -> tuple[str, ...]:
    alpha = [mask for mask in good if mask.has_shape_in_alpha]
    return (f"the alpha channel of {len(alpha):,} masks varies and is not read ({first_few(alpha)})",) if alpha else ()


def frame_of_all(seen: Sequence[Seen]) -> tuple[bool, tuple[str, ...]]:
    """Whether masks have the stored frame where their size does not tell: as those that tell have it."""
    told = Counter(mask.frame for mask in seen if mask.is_good)
    is_stored = told["stored"] > 0 and not told["upright"]
    if not told["open"]:
        return is_stored, ()
    frame, why = ("stored", "as others of the set show") if is_stored else ("upright", "as most tools show pictures")
    return is_stored, (
        f"of {told['open']:,} pictures that EXIF turns, sizes do not tell whether the masks are turned; they are taken "
        f"as {frame}, {why}",
    )
