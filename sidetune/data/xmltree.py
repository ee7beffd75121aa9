"""XML as a tree that knows its lines, for messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from sidetune.errors import DataError

DECLARED = re.compile(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)["']""")
EASTERN = ("gb2312", "gbk", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr")
"""Encodings that expat does not read and Python does."""


@dataclass(kw_only=True)
class Node:
    tag: str
    """In lower case."""
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Node]:
        """The children of this tag."""
        return (child for child in self.children if child.tag == tag)

    def first(self, tag: str) -> Node | None:
        return next(self.all(tag), None)

    def said(self, tag: str) -> str:
        """The text of the first child of this tag, without blanks around it; empty if there is none."""
        found = self.first(tag)
        return found.text.strip() if found else ""


def read_xml(path: Path) -> Node:
    """The outermost element. Raises DataError with the line for what is no XML."""
    data = path.read_bytes()
    if (named := DECLARED.match(data)) and (encoding := named[1].decode().lower()) in EASTERN:
        data = b"<?xml version='1.0'?>" + data.decode(encoding, "replace").partition("?>")[2].encode()
    parser = expat.ParserCreate()
    top = Node(tag="", line=0)
    open_nodes = [top]

    def begin(tag: str, _: object) -> None:
        node = Node(tag=tag.rpartition(":")[2].lower(), line=parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def text(found: str) -> None:
        open_nodes[-1].text += found

    parser.StartElementHandler, parser.CharacterDataHandler = begin, text
    parser.EndElementHandler = lambda _: open_nodes.pop()
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as e:  # the last two: encodings that expat does not know
        raise DataError(f"{path}, line {parser.CurrentLineNumber}: no XML, or a damaged one: {e}") from None
    return top.children[0]
