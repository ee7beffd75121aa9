"""Files of ours under names that a user gives: each says that we wrote it, and nothing else is replaced."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from sidetune.atomic import replacing
from sidetune.errors import RunExists
from sidetune.saved import MARK, mark, mark_of

MERGED = "merged"
COMMENT = f"{MARK} {MERGED}".encode()


def check_replaceable(path: Path, is_own: Callable[[Path], bool]) -> None:
    """Raises RunExists where something else stands under the name than a file that this command wrote before."""
    if path.is_symlink() or path.exists():
        if not path.is_file() or not is_own(path):
            raise RunExists(f"{path} is there already, and not from this command; remove it, or choose another name")


def is_merged(path: Path) -> bool:
    """Whether `write_merged` wrote the file."""
    if path.suffix == ".safetensors":
        return mark_of(path) == MERGED
    try:
        with zipfile.ZipFile(path) as file:
            return file.comment == COMMENT
    except (OSError, zipfile.BadZipFile):
        return False


def write_merged(state: dict[str, Tensor], path: Path) -> None:
    """Weights as the ending of the name says: safetensors, or a file of PyTorch's. Raises NoSpace, RunExists."""
    import torch
    from safetensors.torch import save_file

    check_replaceable(path, is_merged)
    with replacing(path, sum(t.nbytes for t in state.values())) as beside:
        if path.suffix == ".safetensors":
            save_file(state, beside, metadata=mark(MERGED))
        else:
            torch.save(state, beside)
            with zipfile.ZipFile(beside, "a") as file:
                file.comment = COMMENT


def is_picture(path: Path) -> bool:
    """Whether `write_picture` wrote the file."""
    try:
        with Image.open(path) as file:
            return MARK in file.info
    except (OSError, UnidentifiedImageError):
        return False


def write_picture(picture: Image.Image, folder: Path, of: Path, taken: dict[Path, Path]) -> Path:
    """An answer as a PNG in a folder under the name of the picture that it is of; `taken` are the names that stand for
    others already. Raises NoSpace, RunExists."""
    path, number = folder / f"{of.stem}.png", 2
    while taken.setdefault(path, of) != of:
        path, number = folder / f"{of.stem}-{number}.png", number + 1
    folder.mkdir(parents=True, exist_ok=True)
    check_replaceable(path, is_picture)
    about = PngInfo()
    about.add_text(MARK, "picture")
    with replacing(path) as beside:
        picture.save(beside, format="PNG", pnginfo=about)
    return path


def is_exported(path: Path) -> bool:
    """Whether `sidetune.export.export_onnx` wrote the file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return any(p.key == MARK for p in onnx.load(str(path), load_external_data=False).metadata_props)
    except (OSError, ValueError, DecodeError):
        return False
