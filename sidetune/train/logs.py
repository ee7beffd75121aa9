"""TensorBoard curves of a run."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard.writer import SummaryWriter

from sidetune.train.epoch import Epoch


class TensorBoard:
    """Writes loss, learning rate and figures on validation images by epoch; does nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.writer = SummaryWriter(str(folder / "tensorboard")) if folder else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self.writer:
            self.writer.close()

    def epoch(self, record: Epoch) -> None:
        if self.writer is None:
            return
        for name in ("loss", "lr", "seconds", "val_accuracy"):
            if (value := getattr(record, name)) is not None:
                self.writer.add_scalar(name, value, record.epoch)
        for group, figures in (("val", record.val or {}), ("loss", record.losses or {})):
            for name, value in figures.items():
                if (group, name) != ("val", "accuracy"):
                    self.writer.add_scalar(f"{group}/{name.replace(' ', '_')}", value, record.epoch)
