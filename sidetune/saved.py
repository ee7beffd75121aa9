"""The folder of a trained model: what its files are called and say. Without PyTorch, for the small device has it too.

`model.safetensors` holds the trained part, head included, `sidetune.json` what it belongs to and the digest of these
weights, `README.md` its card. What stands under these names and is not ours is never replaced: weights of ours say so
in their metadata, a card of ours ends in its digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sidetune.atomic import write_text
from sidetune.data.digests import digest_of
from sidetune.errors import DataError, RunExists
from sidetune.sealed import is_sealed, parsed, sealed_json

WEIGHTS, CONFIG, CARD = "model.safetensors", "sidetune.json", "README.md"
FORMAT, WITH_TASK = 2, 3
READ = (1, FORMAT, WITH_TASK)
"""Format 1, of version 0.1, has neither a seal nor the digest of its weights; 3 tells of a task, which those that know
2 alone would take for a plain classification."""
MARK = "sidetune"
"""In the metadata of weights that we wrote: what they are."""
T = TypeVar("T")
SIGNED = re.compile(r"\n<!-- written by sidetune, ([0-9a-f]{64}) -->\n$")


def mark(kind: str) -> dict[str, str]:
    """The metadata of safetensors that we write: `adapter` or `merged`."""
    return {MARK: kind}


def write_description(folder: Path, config: dict[str, Any], num_parameters: int) -> None:
    """Write what stands beside the weights, each whole or absent; a card of others stays. Raises NoSpace."""
    weights = {"sha256": digest_of(folder / WEIGHTS)}
    write_text(folder / CONFIG, sealed_json({"format": format_of(config), **config, "weights": weights}))
    if is_own_card(folder / CARD):
        write_text(folder / CARD, signed(card(config, num_parameters)))


def format_of(config: Mapping[str, Any]) -> int:
    return WITH_TASK if "task" in config else FORMAT


def signed(text: str) -> str:
    return f"{text}\n<!-- written by sidetune, {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_own_card(path: Path) -> bool:
    """Whether there is nothing to lose: no card, or one of ours that nobody has edited."""
    if not path.exists():
        return True
    text = path.read_text(encoding="utf-8", errors="replace")
    if found := SIGNED.search(text):
        return hashlib.sha256(text[: found.start()].encode()).hexdigest() == found[1]
    return text.startswith("# ") and 'model = sidetune.load("this-folder")' in text  # as 0.1 left it


def mark_of(path: Path) -> str | None:
    """What weights of ours are, `adapter` or `merged`; '' for a file of others, None for what is no safetensors."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return str(header.get("__metadata__", {}).get(MARK, ""))
    except (OSError, ValueError, AttributeError, MemoryError, OverflowError):
        return None


def check_own(folder: Path) -> None:
    """Raises RunExists where weights stand that are not a trained part of ours, and would be replaced by one."""
    weights, config = folder / WEIGHTS, folder / CONFIG
    if not weights.exists() or (kind := mark_of(weights)) == "adapter":
        return
    former = config.exists() and '"format": 1' in config.read_text(encoding="utf-8", errors="replace")
    if former or (kind is None and config.exists()):
        return
    what = "merged weights" if kind else "weights that sidetune did not write"
    raise RunExists(f"{weights} holds {what}, which a model here would replace; choose another folder")


def remove(folder: Path) -> None:
    """Take a saved model of ours away, with a card that nobody has edited. Raises RunExists as `check_own` does."""
    check_own(folder)
    if is_own_card(folder / CARD) and (folder / CONFIG).exists():
        (folder / CARD).unlink(missing_ok=True)
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink(missing_ok=True)


def read_config(folder: Path, *, force: bool = False) -> dict[str, Any]:
    """What a saved model says of itself. Raises FileNotFoundError where there is none, DataError for one that is not as
    it was written, unless `force` takes a description that was edited by hand."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        unfinished = " (it holds an unfinished run; go on with it by --resume)" if (folder / "run").is_dir() else ""
        raise FileNotFoundError(f"{folder} holds no saved model: expected {CONFIG} and {WEIGHTS}{unfinished}")
    again = "copy the folder anew, or train again"
    config = parsed(folder / CONFIG, again)
    if config.get("format") not in READ:
        known = " and ".join(map(str, READ))
        raise DataError(f"{folder / CONFIG} has format {config.get('format')!r}; this version reads formats {known}")
    if config["format"] > 1 and not force:
        if not is_sealed(folder / CONFIG, config):
            raise DataError(
                f"{folder / CONFIG} is damaged or was edited: it is not as it was written; {again}, or take it as it "
                f"is by --force (force=True)"
            )
        if digest_of(folder / WEIGHTS) != config["weights"]["sha256"]:
            raise DataError(f"{folder / WEIGHTS} is damaged or belongs to another model than {CONFIG}; {again}")
    return config


def check_finite(path: Path, names: list[str]) -> None:
    """Raises DataError for tensors, by name, that hold NaN or infinite values."""
    if names:
        raise DataError(f"{path} holds values that are no numbers (in {', '.join(names[:3])}); train again")


def card(config: dict[str, Any], num_parameters: int) -> str:
    backbone, method = config["backbone"], config["method"]
    name = backbone["name"] or backbone["architecture"] or "a network of the author's"
    short = {
        k: v for k, v in method.items() if k not in ("type", "module") and v is not None and not isinstance(v, dict)
    }
    choices = ", ".join(f"{k} {v}" for k, v in short.items())
    classes = ", ".join(config["classes"][:20]) + (", ..." if len(config["classes"]) > 20 else "")
    count, task = len(config["classes"]), config.get("task", {}).get("name", "classification")
    what = {
        "classification": f"An image classifier for {count} classes:",
        "multilabel": f"Says which of {count} labels an image has:",
        "regression": f"Says {count} number{'s' * (count > 1)} of an image:",
    }.get(task, f"Does {task}:")
    package = (module := method.get("module", "sidetune")).partition(".")[0]
    own = f"\nimport {module}  # puts the method into sidetune.METHODS"
    own = "" if package in ("sidetune", "__main__") else own
    return f"""# {name}, adapted by {method["type"]}

{what} {classes}.

- backbone: {name}, weights SHA-256 `{backbone["digest"]}`
- images: {backbone["image_size"][0]} x {backbone["image_size"][1]} pixels, transform `{config["transform"]["preset"]}`
- method: {method["type"]} ({choices})
- in this folder: {num_parameters:,} parameters (`{WEIGHTS}`), everything else is the frozen backbone's

```python
import sidetune{own}

model = sidetune.load("this-folder")
print(model.predict("image.jpg"))
```
"""


def from_saved(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A method, a recipe or other choices by their fields as JSON has them. Raises DataError for one it has not."""
    hints = get_type_hints(kind)
    if strange := [name for name in fields if name not in hints and name not in getattr(kind, "FORMER", ())]:
        told = ", ".join(f"{name} = {fields[name]!r}" for name in strange)
        raise DataError(
            f"what was saved tells of a {kind.__name__} with {told}, which this version of sidetune does not know; "
            f"update sidetune, or train again"
        )
    return kind(**{name: restored(value, hints.get(name)) for name, value in fields.items()})


def restored(value: Any, hint: Any) -> Any:
    """A field as it was before JSON made lists of its tuples and mappings of its data classes."""
    if isinstance(value, list):
        return (list if list in (hint, get_origin(hint)) else tuple)(restored(v, None) for v in value)
    made = next((h for h in (hint, *get_args(hint)) if is_dataclass(h)), None)
    if isinstance(value, dict) and made:
        return from_saved(made, value)  # type: ignore[arg-type]
    return value
