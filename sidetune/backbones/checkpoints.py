"""State dicts out of other people's checkpoint files: timm's, Lightning's, plain ones. Never runs code of theirs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor

LFS = b"version https://git-lfs"


class Inert:
    """Stands for an object of a class that is not torch's: arguments, settings, which nothing here needs."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def check_whole(path: Path) -> None:
    """Raises FileNotFoundError, or ValueError for what stands in the place of a file that was not fetched."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    with path.open("rb") as file:
        start = file.read(len(LFS))
    if start == LFS:
        raise ValueError(f"{path} is a pointer of Git LFS, not the weights themselves; `git lfs pull` fetches them")
    if not start:
        raise ValueError(f"{path} is empty")


def read_state(path: Path, own: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tensors by name, as a network of these names has them where the file only puts something in front of them.

    Raises ValueError if it holds no tensors by name, or several networks that could be meant, and whatever a damaged
    file makes its reader raise.
    """
    is_zip = zipfile.is_zipfile(path)  # as torch has written since 1.6; of older ones the foreign names are not known
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in foreign]):
            state = load_state_dict(str(path), weights_only=True)
    except (AttributeError, UnpicklingError) as e:
        raise ValueError(f"it holds other objects than tensors by name; save model.state_dict() alone ({e})") from e
    except RuntimeError as e:
        if is_zip:
            raise
        raise ValueError("it is in torch's old format and not of tensors alone; save model.state_dict() anew") from e
    prefixes = [""] if any(name in state for name in own) else prefixes_of(state, own)
    if len(prefixes) > 1:
        raise ValueError(f"the file holds several networks ({', '.join(prefixes)}); save the one that is meant alone")
    prefix = prefixes[0] if prefixes else ""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def prefixes_of(state: Mapping[str, Any], own: Mapping[str, Tensor]) -> list[str]:
    """What stands in front of the names of a network, wherever most of them are there (`model.` of Lightning's)."""
    names = set(own)
    found = {name[: -len(end)] for name in state for end in ends_of(name) if end in names}
    return sorted(p for p in found if sum(p + name in state for name in names) > len(names) / 2)


def ends_of(name: str) -> list[str]:
    """`a.b.c` -> `b.c`, `c`."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(1, len(parts))]
