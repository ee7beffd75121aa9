"""The import graph as the source draws it, lazy and type-only imports included: no circle, no arrow up the flow."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1] / "sidetune"
LOWER = {"data", "backbones", "seam", "heads", "methods", "tasks", "store", "wire"}
"""Rooms of what a model is made of, or that has to do without one."""
UPPER = {"model", "saving", "merging", "export", "contract", "train", "measure", "serve", "edge", "cli"}


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph():
    """By module, the modules it imports."""
    paths = {name_of(path): path for path in ROOT.rglob("*.py")}
    found = {}
    for module, path in paths.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in paths else node.module for name in inner}
        # a package's own file runs before what is inside; the root's imports nothing until it is asked
        names |= {up for name in names if (up := name.rpartition(".")[0]) != "sidetune" and not module.startswith(up)}
        found[module] = (names & paths.keys()) - {module}
    return found


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_there_is_no_circle_of_imports():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as e:
        raise AssertionError(" <- ".join(e.args[1])) from None


def test_rooms_stand_one_above_the_other():
    """No circle of rooms either: each knows only those below it."""
    rooms = {}
    for module, imports in graph().items():
        rooms.setdefault(room(module), set()).update({room(w) for w in imports} - {room(module)})
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as e:
        raise AssertionError(" <- ".join(e.args[1])) from None
    assert len(rooms) > 30 and "train" in rooms["runs"] and "choose" in rooms["train"]


def test_a_circle_would_be_seen():
    imports = graph()
    assert "sidetune.seam.joined" in imports["sidetune.saving"] and len(imports) > 200
    imports["sidetune.seam.joined"] |= {"sidetune.model"}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError:
        return
    raise AssertionError("not seen")


def test_what_a_model_is_made_of_does_not_know_it():
    up = [(m, w) for m, imports in graph().items() for w in imports if room(m) in LOWER and room(w) in UPPER]
    assert not up


def test_a_family_is_known_to_its_room_alone():
    """What is special about one is a role, a capability or a function of its `Family`."""
    files = {"sidetune.backbones." + name for name in ("vit", "eva", "swin", "cnn", "convnext")}
    assert files <= graph().keys()
    assert not [(m, w) for m, imports in graph().items() for w in imports & files if room(m) != "backbones"]
    timms = re.compile(r"^\s*(from|import) timm\.models", flags=re.M)
    sources = {path: timms.search(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
    assert {path.parent.name for path, found in sources.items() if found} == {"backbones"}


def test_verbs_are_imported_by_nobody():
    assert not [
        (m, w)
        for m, imports in graph().items()
        for w in imports
        if room(w) == "cli" and room(m) not in ("cli", "__main__")
    ]


def test_training_knows_no_method_by_its_name():
    """But for searches that a method brings with it."""
    files = {"sidetune.methods." + path.stem for path in (ROOT / "methods").glob("[!_]*.py")} - {
        "sidetune.methods.method",
        "sidetune.methods.layers",
    }
    known = {(m, w) for m, imports in graph().items() for w in imports & files if room(m) == "train"}
    assert {m for m, _ in known} <= {"sidetune.runs.sizes", "sidetune.choose.evolution", "sidetune.runs.papers"}
