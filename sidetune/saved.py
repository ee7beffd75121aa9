"""The folder of a trained model: what its files are called and say. Without PyTorch, for the small device has it too.

`model.safetensors` holds the trained part, head included, `sidetune.json` what it belongs to, `README.md` its card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sidetune.atomic import write_text
from sidetune.errors import DataError

WEIGHTS, CONFIG, CARD = "model.safetensors", "sidetune.json", "README.md"
FORMAT = 1


def write_description(folder: Path, config: dict[str, Any], num_parameters: int) -> None:
    """Write what stands beside the weights, each file whole or absent. Raises NoSpace."""
    write_text(folder / CONFIG, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / CARD, card(config, num_parameters))


def read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        unfinished = " (it holds an unfinished run; go on with it by --resume)" if (folder / "run").is_dir() else ""
        raise FileNotFoundError(f"{folder} holds no saved model: expected {CONFIG} and {WEIGHTS}{unfinished}")
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as e:
        raise DataError(f"{folder / CONFIG} is damaged: {e}") from e
    if config.get("format") != FORMAT:
        raise DataError(f"{folder / CONFIG} has format {config.get('format')!r}; this version reads format {FORMAT}")
    return config


def card(config: dict[str, Any], num_parameters: int) -> str:
    backbone, method = config["backbone"], config["method"]
    name = backbone["name"] or backbone["architecture"] or "a network of the author's"
    short = {
        k: v for k, v in method.items() if k not in ("type", "module") and v is not None and not isinstance(v, dict)
    }
    choices = ", ".join(f"{k} {v}" for k, v in short.items())
    classes = ", ".join(config["classes"][:20]) + (", ..." if len(config["classes"]) > 20 else "")
    package = (module := method.get("module", "sidetune")).partition(".")[0]
    own = f"\nimport {module}  # puts the method into sidetune.METHODS"
    own = "" if package in ("sidetune", "__main__") else own
    return f"""# {name}, adapted by {method["type"]}

An image classifier for {len(config["classes"])} classes: {classes}.

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
