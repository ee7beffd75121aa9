"""Every choice of a training run that decides its result, as one value. The defaults are those of the DTL papers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from sidetune.means import Means

Precision = Literal["auto", "fp32", "bf16", "fp16"]
MEANS = tuple(f.name for f in fields(Means))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    epochs: int = 100
    batch_size: int = 32
    """Images a step, over all processes."""
    lr: float | None = None
    """Learning rate after warm-up; the method's own default if None."""
    head_rate: float = 1.0
    """The head's learning rate, in that of the rest (10 in SegFormer's recipe)."""
    schedule: Literal["cosine", "poly", "steps"] = "cosine"
    """How the rate falls: along a half cosine, in a straight line (mmsegmentation's poly of power 1), or to a tenth at
    each of `milestones`."""
    milestones: tuple[int, ...] = ()
    """Epochs, counted from 0, before which the rate falls to a tenth (with `steps`)."""
    warmup_epochs: float | None = None
    """Linear warm-up from `warmup_lr`; a tenth of the epochs if None. Parts of an epoch count with `lr_update=step`."""
    cooldown_epochs: int = 0
    """Epochs at `min_lr` after the cosine (10 in the DTL authors' runs)."""
    warmup_lr: float = 1e-7
    min_lr: float = 1e-8
    lr_update: Literal["epoch", "step"] = "epoch"
    """When the rate moves: after each epoch as the authors do, or smoothly, which suits runs of a few epochs."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd has a momentum of 0.9 (VPT's)."""
    weight_decay: float = 0.05
    """Not applied to biases, norms and other vectors."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: float | None = None
    """Largest norm of the gradient over all trained parameters."""
    weights: Literal["same", "int8"] = "same"
    """How frozen linear layers are held: in the type they compute in, or in 8 bits with a scale for each output."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; smaller before it by the linear rule, 0 in the frozen prefix."""
    precision: Precision = "auto"
    """auto: bf16 where the hardware has it, else fp16 on a GPU and fp32 on a CPU."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's parameters the run ends with; `best` is by validation accuracy, never by test."""
    views: int = 0
    """Random views of each training image whose features are kept, an epoch taking the next; 0: augment anew."""
    codec: Literal["same", "fp16", "bf16", "int8"] = "same"
    """How a store on disk writes features; int8 has a scale for each token."""
    seed: int = 0
    means: Means = Means()
    """By what the run is carried out. Its choices may be given and read as the recipe's own (`Recipe(micro_batch=8)`);
    they decide no result."""

    def __post_init__(self) -> None:
        for name, low in {"epochs": 1, "batch_size": 1, "cooldown_epochs": 0, "views": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("warmup_lr", "min_lr", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr", "head_rate", "clip_grad"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in 0..1, got {self.drop_path}")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(f"warmup_epochs must be in 0..{self.epochs}, got {self.warmup_epochs}")
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("schedule='steps' needs milestones, the epochs at which the rate falls, such as (27, 33)")
        if self.milestones and self.schedule != "steps":
            raise ValueError(f"milestones belong to schedule='steps'; with {self.schedule!r} the rate falls all along")
        if list(self.milestones) != sorted({m for m in self.milestones if 0 < m < self.epochs}):
            raise ValueError(f"milestones must rise and lie in 1..{self.epochs - 1}, got {self.milestones}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    FORMER: ClassVar = MEANS
    """Fields of version 0.1 that saved recipes are read with."""

    def deciding(self) -> dict[str, Any]:
        """The fields, but for the means, and for those that earlier versions did not have where they change nothing."""
        told = {name: value for name, value in asdict(self).items() if name != "means"}
        return {name: value for name, value in told.items() if name not in SINCE or SINCE[name] != value}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in MEANS:
                return getattr(self.means, name)
            raise AttributeError(f"a Recipe has no field {name!r}")


SINCE = {"head_rate": 1.0, "schedule": "cosine", "milestones": ()}
"""Fields that version 0.1 did not have, with what was always so."""
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": get_args(Precision),
    "optimizer": ("adamw", "sgd"),
    "keep": ("last", "best"),
    "lr_update": ("epoch", "step"),
    "schedule": ("cosine", "poly", "steps"),
    "weights": ("same", "int8"),
    "codec": ("same", "fp16", "bf16", "int8"),
}


def taking_means(plain: Any) -> Any:
    """An `__init__` that takes the choices of the means for fields of the recipe, as version 0.1 had them."""

    @wraps(plain)
    def __init__(self: Recipe, **choices: Any) -> None:
        means = choices.pop("means", Means())
        means = Means(**means) if isinstance(means, dict) else means  # as `asdict` has them
        changes = {name: choices.pop(name) for name in MEANS if name in choices}
        plain(self, **choices, means=replace(means, **changes))

    return __init__


if not TYPE_CHECKING:
    Recipe.__init__ = taking_means(Recipe.__init__)
