"""JSON of annotation tools that is not COCO's, told from it by its beginning and named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

BEGINNING = 1 << 16
"""Bytes that are looked at."""
LISTS = re.compile(r'"(images|annotations)"\s*:\s*\[')
TOOLS: Mapping[str, re.Pattern[str]] = {
    "labelme's": re.compile(r'\A(?=.*"shapes"\s*:)(?=.*"(?:imagePath|imageData|flags)")', re.DOTALL),
    "the VGG annotator's": re.compile(r'"(_via_img_metadata|_via_settings|shape_attributes|region_attributes)"'),
    "Label Studio's own": re.compile(r'^\s*\[\s*\{.*?"(from_name|annotations)".*?"(to_name|result|data)"', re.DOTALL),
    "CreateML's": re.compile(r'^\s*\[\s*\{.*?"coordinates"\s*:\s*\{', re.DOTALL),
    "Supervisely's": re.compile(r'"objects"\s*:\s*\[.*?"(geometryType|classTitle)"', re.DOTALL),
    "a detector's results as": re.compile(r'^\s*\[\s*\{[^}]*"image_id"[^}]*"score"', re.DOTALL),
}


def beginning(path: Path) -> str:
    """A JSON's text as far as it is looked at."""
    with path.open("rb") as file:
        data = file.read(BEGINNING)
    return data.decode(json.detect_encoding(data), "replace").lstrip("\ufeff")


def looks_like_coco(path: Path) -> bool:
    """Whether there is a list of images or of annotations at the beginning."""
    text = beginning(path)
    return text.lstrip().startswith("{") and bool(LISTS.search(text))


def tool_of(path: Path) -> str | None:
    """Whose JSON this is, of those that are known and not read."""
    text = beginning(path)
    return next((tool for tool, words in TOOLS.items() if words.search(text)), None)
