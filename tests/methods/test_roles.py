"""Methods ask what a family can do and has: no name of a family, and none of timm's sub-layers, stands in them."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from conftest import tiny_backbone

import sidetune
from sidetune.backbones import FAMILIES
from sidetune.backbones.family import Role
from sidetune.errors import MethodRefused
from sidetune.methods import METHODS, find_method
from sidetune.methods.method import check_suits

METHODS_DIR = Path(sidetune.__file__).parent / "methods"
PATHS = {path for family in FAMILIES.values() for path in (*family.roles.values(), *family.mlp_branch)}
LAYERS = {part for path in PATHS for part in path.split(".")} | {
    *("cls_token", "reg_token", "patch_embed", "drop_path1", "head_dim", "img_size")
}
OWN = {"qkv", "norm"}
"""Layers that side networks have too."""


def told(source):
    """Attributes and texts of a source, docstrings aside."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield "attribute", node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield "text", node.value


def slips(source):
    names = "|".join(family.name for family in FAMILIES.values())
    dotted = [path for path in PATHS if "." in path]
    for kind, text in told(source):
        bad = set(re.findall(r"\w+", text)) & (LAYERS - OWN - set(get_args(Role)))
        if kind == "text":
            bad |= {*re.findall(rf"\b({names})\b", text), *(path for path in dotted if path in text)}
        if bad:
            yield sorted(bad)


@pytest.mark.parametrize("path", sorted(METHODS_DIR.glob("*.py")), ids=lambda p: p.stem)
def test_no_method_spells_a_family_or_a_layer_of_timms(path):
    assert list(slips(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        'if family == "vit": pass',
        'f"a swin {x}"',
        'block.get_submodule("attn.qkv")',
        'NAMES = ("norm1",)',
        "block.attn",
        'trained = {"stem.cls_token"}',
        'x = "ls2"',
        "block.head_dim",
    ],
)
def test_a_slip_would_be_seen(source):
    assert list(slips(source))


KINDS = ("vit", "eva", "swin", "convnext", "resnet", "efficientnet")


@dataclass(frozen=True, kw_only=True)
class OfNames(type(METHODS["linear"])):
    """A method as version 0.1 had them."""

    def refuses(self, family: str) -> str | None:
        if family in ("resnet", "efficientnet") or {"swin": True}.get(family):
            return f"a {family} has none"
        return None if family == "vit" else "no"


def test_a_method_that_asks_for_names_as_in_0_1_goes_on_working():
    reasons = {kind: OfNames().refuses(tiny_backbone(kind).family) for kind in KINDS}
    assert reasons == {
        "vit": None,
        "eva": "no",
        "swin": "a swin has none",
        "convnext": "no",
        "resnet": "a resnet has none",
        "efficientnet": "a efficientnet has none",
    }
    with pytest.raises(MethodRefused, match="OfNames does not work on a swin backbone: a swin has none"):
        sidetune.adapt(tiny_backbone("swin"), OfNames(), num_classes=3)


def test_a_method_that_looks_at_images_first_is_refused_before_it_does():
    with pytest.raises(MethodRefused, match="its blocks are convolutions"):
        find_method("spt-lora").prepare(tiny_backbone("resnet"), [], 3)
    check_suits(find_method("spt-lora"), tiny_backbone("vit"))
