"""Images and labels in: folders, file lists, data sets that come with the library, transforms."""

from sidetune.data.dataset import ImageDataset, check_images
from sidetune.data.named import NAMED, read_data
from sidetune.data.samples import Samples, Splits
from sidetune.data.transforms import PRESETS, Transform

__all__ = ["NAMED", "PRESETS", "ImageDataset", "Samples", "Splits", "Transform", "check_images", "read_data"]
