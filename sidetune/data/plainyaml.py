"""The YAML that is written by hand and by annotation tools: mappings, lists, texts; nothing is anything but text.

Block and inline forms, quotes, comments and literal blocks; no anchors, tags or several documents. So `yes` and `1`
stay what is written, and there is no need for a package.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

KEY = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s#\[\]{}"',-][^#]*?|-?[^\s#:\[\]{}"',]+?)\s*:(?:\s+(.*))?$""", re.DOTALL
)
QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'""")


@dataclass(frozen=True, kw_only=True)
class Line:
    number: int
    indent: int
    text: str
    """Without indentation and comment."""


def read_yaml(text: str) -> Any:
    """Mappings as dict, lists as list, all else as str; None for what is empty. Raises ValueError with the line."""
    lines = lines_of(text)
    if not lines:
        return None
    value, rest = block(lines, 0)
    if rest < len(lines):
        raise ValueError(f"line {lines[rest].number}: expected no further indentation than above")
    return value


def lines_of(text: str) -> list[Line]:
    """What counts: comments, empty lines and literal blocks are gone, inline forms over several lines are one."""
    lines: list[Line] = []
    literal: int | None = None
    for number, raw in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        indent = len(raw) - len(raw.lstrip())
        if literal is not None and (not raw.strip() or indent > literal):
            continue
        literal = None
        bare = uncommented(raw).strip()
        if not bare or bare in ("---", "...") or bare.startswith("%"):
            continue
        if lines and is_open(lines[-1].text):
            lines[-1] = Line(number=lines[-1].number, indent=lines[-1].indent, text=f"{lines[-1].text} {bare}")
            continue
        if re.search(r":\s+[|>][-+\d]*$", bare):
            literal, bare = indent, bare[: bare.rindex(":") + 1] + " ''"
        lines.append(Line(number=number, indent=indent, text=bare))
    return lines


def uncommented(line: str) -> str:
    hidden = QUOTED.sub(lambda quoted: "_" * len(quoted[0]), line)
    found = re.search(r"(^|\s)#", hidden)
    return line[: found.start()] if found else line


def is_open(text: str) -> bool:
    """Whether an inline list or mapping goes on in the next line."""
    bare = QUOTED.sub("", text)
    return bool(re.search(r"(^|:\s+|-\s+)[\[{]", bare)) and sum(map(bare.count, "[{")) > sum(map(bare.count, "]}"))


def block(lines: list[Line], at: int) -> tuple[Any, int]:
    """The value that begins with a line, and the line behind it."""
    first = lines[at]
    if first.text == "-" or first.text.startswith("- "):
        return sequence(lines, at)
    if KEY.fullmatch(first.text):
        return mapping(lines, at)
    return scalar(first.text, first.number), at + 1


def sequence(lines: list[Line], at: int) -> tuple[list[Any], int]:
    found, indent = [], lines[at].indent
    while at < len(lines) and lines[at].indent == indent and (lines[at].text + " ").startswith("- "):
        line, text = lines[at], lines[at].text[1:].strip()
        if not text:
            value, at = below(lines, at, indent)
        elif KEY.fullmatch(text) and text[0] not in "[{":
            inner = Line(number=line.number, indent=indent + 2, text=text)
            value, end = mapping([inner, *lines[at + 1 :]], 0)
            at += end
        else:
            value, at = scalar(text, line.number), at + 1
        found.append(value)
    return found, at


def mapping(lines: list[Line], at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    indent = lines[at].indent
    while at < len(lines) and lines[at].indent == indent and (parts := KEY.fullmatch(lines[at].text)):
        line, key = lines[at], str(scalar(parts[1], lines[at].number))
        if key in found:
            raise ValueError(f"line {line.number}: {key} is given twice")
        if (text := (parts[2] or "").strip()) and not text.startswith("&"):
            found[key], at = scalar(text, line.number), at + 1
        else:
            is_list = at + 1 < len(lines) and (lines[at + 1].text + " ").startswith("- ")
            found[key], at = below(lines, at, indent - 1 if is_list else indent)
    return found, at


def below(lines: list[Line], at: int, indent: int) -> tuple[Any, int]:
    """What is indented further than this, under a line; None if nothing is."""
    if at + 1 < len(lines) and lines[at + 1].indent > indent:
        return block(lines, at + 1)
    return None, at + 1


def scalar(text: str, number: int) -> Any:
    text = text.strip()
    if text[:1] in ("[", "{"):
        value, rest = inline(text, number)
        if rest.strip():
            raise ValueError(f"line {number}: {rest.strip()[:40]!r} stands behind a list or mapping")
        return value
    if QUOTED.fullmatch(text):
        return unquoted(text)
    return None if text in ("", "~", "null") else text


def unquoted(text: str) -> str:
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        return text[1:-1]


def inline(text: str, number: int) -> tuple[Any, str]:
    """An inline value at the beginning of a text, and what comes behind it."""
    text = text.lstrip()
    if text[:1] == "[" or text[:1] == "{":
        return collection(text, number)
    if found := QUOTED.match(text):
        return unquoted(found[0]), text[found.end() :]
    end = re.search(r"[,\]}]|:(?=\s|$)", text)
    end_at = end.start() if end else len(text)
    return scalar(text[:end_at], number) if text[:end_at].strip() else None, text[end_at:]


def collection(text: str, number: int) -> tuple[Any, str]:
    close, items, pairs, rest = "]" if text[0] == "[" else "}", [], {}, text[1:].lstrip()
    while not rest.startswith(close):
        value, rest = inline(rest, number)
        rest = rest.lstrip()
        if close == "}":
            key, value = value, None
            if rest.startswith(":"):
                value, rest = inline(rest[1:], number)
                rest = rest.lstrip()
            pairs[str(key)] = value
        else:
            items.append(value)
        if rest.startswith(","):
            rest = rest[1:].lstrip()
        elif not rest.startswith(close):
            raise ValueError(f"line {number}: expected , or {close} in a list or mapping, got {rest[:40]!r}")
    return items if close == "]" else pairs, rest[1:]
