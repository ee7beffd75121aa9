"""Which files of a folder are images: what systems leave beside them is passed over, what links repeat comes once."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from sidetune.data.names import named, printable
from sidetune.errors import DataError, DataWarning

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jif .mpo .png .apng .webp .avif .avifs .gif .bmp .dib .tif .tiff .jp2 .j2k .j2c .jpx .jpf "
    ".jpc .ppm .pgm .pbm .pnm .pfm .tga .icb .vda .vst .ico .icns .cur .pcx .dcx .dds .sgi .rgb .rgba .bw .qoi .psd "
    ".fit .fits .blp .ftc .ftu .gbr .im .msp .pcd .pxr .ras .xbm .xpm".split()
)
"""Extensions, in lower case, of files that are taken for images: what Pillow reads by itself. Whether one is an image,
its decoder says."""
HEIF = frozenset({".heic", ".heif", ".hif"})
"""What telephones write; read where the package pillow-heif is installed."""
UNREAD = frozenset(
    ".svg .xcf .ai .eps .pdf .jxl .jxr .exr .hdr .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .raw .pef .srw "
    ".dcm .dicom .nii .czi .lif .nd2 .oib .oif .vsi .ims .mrc .svs .ndpi .npy .h5".split()
)
"""Pictures that nothing here reads."""
SERVICE = frozenset(
    "__macosx @eadir #recycle #snapshot @recycle @recently-snapshot .@__thumb $recycle.bin lost+found lost.dir".split()
    + ["system volume information", "network trash folder", "temporary items", "__pycache__"]
)
"""Folders, in lower case, that systems make for themselves; so are all whose names begin with a dot."""
EXTENSION = re.compile(r"\.[a-z][a-z0-9_~]{0,12}")
LEFTOVERS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ",
)  # fmt: skip


@dataclass(kw_only=True)
class PassedOver:
    """What was met and not taken."""

    by_suffix: Counter[str] = field(default_factory=Counter)
    links: list[Path] = field(default_factory=list)
    """To folders whose images were found elsewhere."""
    broken: list[Path] = field(default_factory=list)
    """Links to nothing."""

    def told(self) -> list[str]:
        """A sentence for each kind."""
        said = []
        if self.by_suffix:
            largest = sorted(self.by_suffix.items(), key=lambda kind: (-kind[1], kind[0]))[:8]
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in largest)
            more = ", ..." if len(self.by_suffix) > 8 else ""
            heif = " (pip install pillow-heif, and .heic is read)" if HEIF & self.by_suffix.keys() else ""
            said.append(f"passed over {self.by_suffix.total():,} files that are no images here: {kinds}{more}{heif}")
        if self.links:
            said.append(f"passed over links to folders whose images are found without them: {named(self.links)}")
        if self.broken:
            said.append(f"passed over links to nothing: {named(self.broken)}")
        return said


@cache
def readable() -> frozenset[str]:
    """The extensions of images that this installation reads."""
    return SUFFIXES | HEIF if importlib.util.find_spec("pillow_heif") else SUFFIXES


def is_service(name: str) -> bool:
    """Whether a folder, or file, of this name belongs to a system or a program rather than to the user's images."""
    return name.startswith(".") or name.casefold() in SERVICE or name.casefold().endswith(".lrdata")


def is_image(path: Path) -> bool:
    """By extension; a file without one, by its first bytes."""
    suffix = path.suffix.lower()
    return suffix in readable() or (not EXTENSION.fullmatch(suffix) and begins_as_image(path))


def begins_as_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(SIGNATURES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, service folders and hidden files left out, in order. Raises DataError."""
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not is_service(e.name)), key=lambda e: e.name)
    except OSError as e:
        raise DataError(f"the folder {folder} cannot be listed: {e.strerror or e}") from e


def folders_in(folder: Path) -> list[Path]:
    """Its folders, links to folders among them."""
    return [Path(e.path) for e in entries_of(folder) if kind_of(e) == "folder"]


def images_in(folder: Path) -> list[Path]:
    """The images that lie in it, not below."""
    return [path for e in entries_of(folder) if kind_of(e) == "file" and is_image(path := Path(e.path))]


def kind_of(entry: os.DirEntry[str]) -> Literal["folder", "file", "broken", "other"]:
    """Of a link, what it leads to."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself
        return "broken"
    return "broken" if entry.is_symlink() else "other"


class Finder:
    """Finds the images at any depth under folders that are one data set.

    Real folders are walked first; a link is followed only to what no folder holds yet, and once. So a link back into
    the set neither repeats images nor takes them from where they lie.
    """

    def __init__(self) -> None:
        self.passed = PassedOver()
        self.others: list[Path] = []
        """Files that are no images: what tells of them may be among these."""
        self.seen: set[tuple[int, int]] = set()

    def find(self, folders: Iterable[Path]) -> dict[Path, list[Path]]:
        """By folder, its images in order."""
        found: dict[Path, list[Path]] = {folder: [] for folder in folders}
        links: list[tuple[Path, Path]] = []
        for folder in found:
            if folder.is_symlink():
                links.append((folder, folder))
            else:
                links += [(folder, link) for link in self.walk(folder, found[folder])]
        for folder, link in links:  # grows while it is gone through
            if leads_up(link) or identity(link) in self.seen:
                self.passed.links.append(link)
            else:
                links += [(folder, further) for further in self.walk(link, found[folder])]
        return {folder: sorted(images) for folder, images in found.items()}

    def walk(self, top: Path, images: list[Path]) -> list[Path]:
        """Add the images under `top`; returns the links to folders that were met."""
        links: list[Path] = []
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            if identity(folder) in self.seen:
                continue
            self.seen.add(identity(folder))
            for entry in entries_of(folder):
                path, kind = Path(entry.path), kind_of(entry)
                if kind == "folder":
                    (links if entry.is_symlink() else waiting).append(path)
                elif kind == "file":
                    self.take(path, images)
                elif kind == "broken":
                    self.passed.broken.append(path)
        return sorted(links)

    def take(self, path: Path, images: list[Path]) -> None:
        if is_image(path):
            images.append(path)
        elif path.name.casefold() not in LEFTOVERS:
            self.others.append(path)
            self.passed.by_suffix[path.suffix.lower() or "without extension"] += 1


def identity(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino


def leads_up(link: Path) -> bool:
    """Whether a link leads to a folder that holds the link itself."""
    return link.parent.resolve().is_relative_to(link.resolve())


def images_under(folder: Path) -> list[Path]:
    """The images of a folder at any depth, in order. Warns of what is passed over."""
    finder = Finder()
    images = finder.find([folder])[folder]
    tell(folder, finder.passed.told())
    return images


def tell(folder: Path, notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(f"{printable(folder)}: {note}", DataWarning, stacklevel=4)


def holds_images(folder: Path) -> bool:
    """Whether there is an image at any depth."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        if identity(folder) in seen or leads_up(folder):
            continue
        seen.add(identity(folder))
        if images_in(folder):
            return True
        waiting += folders_in(folder)
    return False
