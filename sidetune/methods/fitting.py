"""Whether a method, and what it adds, fits the backbone: a slip is named where it was made, not where it breaks."""

from __future__ import annotations

from typing import Any

from torch import nn

from sidetune.backbones.backbone import Backbone
from sidetune.methods.method import Adaptation, Method, SideNetwork, check_called, nothing


def check_is_method(method: Any) -> None:
    """Raise ValueError for what is not an instance of a dataclass that is a `Method`."""
    if isinstance(method, type):
        raise ValueError(f"{method.__name__} is a class; a method is an instance of it: {method.__name__}()")
    if not isinstance(method, Method):
        raise ValueError(f"a method is a name or an instance of a sidetune.Method, got {type(method).__name__}")
    if "__dataclass_fields__" not in vars(type(method)):
        raise ValueError(f"{type(method).__name__} is no dataclass; put @dataclass(frozen=True, kw_only=True) above it")


def check_fits(given: Any, method: Method, backbone: Backbone) -> Adaptation:
    """What `method.adapt` gave. Raises ValueError if it is no Adaptation or names what the backbone does not have,
    MethodRefused for layers that are never called."""
    name = type(method).__name__
    if not isinstance(given, Adaptation):
        raise ValueError(f"{name}.adapt must return a sidetune.Adaptation, got {type(given).__name__}")
    side: Any = given.side
    if not isinstance(side, SideNetwork):
        what = f"the class {side.__name__}" if isinstance(side, type) else type(side).__name__
        raise ValueError(f"side= of {name} must be a sidetune.SideNetwork, got {what}")
    last = backbone.num_blocks
    for verb, blocks, first in (("reads", given.side.reads, 1), ("writes to", given.side.writes, 0)):
        if outside := [i for i in blocks if not first <= i <= last]:
            zero = "; 0 is the stem" if not first else ""
            raise ValueError(f"the side network of {name} {verb} blocks {outside}; blocks are {first}..{last}{zero}")
    if given.side.source is not None and not given.side.writes:
        raise ValueError(f"the side network of {name} has a source, but writes nothing that would go on from it")
    pool = backbone.pool_named(method.pool)
    parts = dict(backbone.named_parts(pool))
    keys = {key_of(part): module for part, module in parts.items()}
    if unknown := [key for key in given.wraps if key not in keys]:
        raise ValueError(
            f"wraps names {unknown}, which this backbone does not have; it has {', '.join(map(repr, keys))}"
        )
    for key, wraps in given.wraps.items():
        for names, make in wraps.items():
            if isinstance(make, nn.Module) or not callable(make):
                raise ValueError(
                    f"wraps[{key!r}][{names!r}] must be a function layer -> module, got {type(make).__name__}"
                )
            for wrapped in (names,) if isinstance(names, str) else names:
                if wrapped not in (has := [n for n, _ in keys[key].named_modules() if n]):
                    raise ValueError(
                        f"wraps[{key!r}] names {wrapped!r}, but this {type(keys[key]).__name__} has {', '.join(has)}; "
                        f"a method that does not suit a family says so in refuses(family)"
                    )
    for part in parts:
        layers = [name for names in given.wraps_in(part) for name in ((names,) if isinstance(names, str) else names)]
        check_called(method, backbone, f"pools.{pool}" if part == "pool" else part, layers)
    trainable = [f"{part}.{n}" for part, module in parts.items() for n, _ in module.named_parameters()]
    if given.trains is not nothing and not any(map(given.trains, trainable)):
        some = ", ".join(n for n in trainable if n.startswith(("blocks.1.", "pool.")))
        raise ValueError(f"trains of {name} matches no parameter; their names are like {some}")
    return given


def key_of(part: str) -> int | str:
    """A part as `wraps` names it: blocks by number."""
    place, _, number = part.partition(".")
    return int(number) if place == "blocks" else part
