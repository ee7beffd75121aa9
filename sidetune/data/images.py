"""Any image file -> an upright 8-bit RGB picture."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sidetune.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})
"""Extensions, in lower case, of files that are taken for images."""


def open_image(path: str | Path) -> Image.Image:
    """Read an image: EXIF orientation applied, 16-bit scaled to 8, palettes resolved, alpha laid over white.

    Raises DataError naming the file if it is missing, unreadable, truncated, larger than Pillow's bound against
    decompression bombs, or of floating-point values without a known range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # of odd metadata in photographs
            with Image.open(path) as image:
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise DataError(f"no image at {path}") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image that can be read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise DataError(f"{path} has too many pixels: {e}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as e:  # what Pillow's decoders raise on damage
        raise DataError(f"{path} is damaged or cannot be read: {e}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode of Pillow's to RGB."""
    mode = image.mode
    if mode == "RGB":
        return image
    if mode.startswith("I"):  # 16 bits, also where Pillow widens them to 32
        sixteen = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray((sixteen / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if mode == "F":
        raise ValueError("floating-point pixels have no known range; save it as 8 or 16 bits")
    if "A" in mode or "a" in mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
