"""The trainable half: blocks after the frozen depth and the side network beside them; features in, adapted taps out.

Where it starts follows from what the method touches, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.held import hold, is_low, keep_type_of_stream, natively
from sidetune.backbones.structure import owned, rebuild
from sidetune.seam.adaptation import Adaptation, Make
from sidetune.seam.features import Features
from sidetune.seam.taps import Need, Tap, block_input, block_output, last_block, numbers, pooled, poolings

IMAGES = -1
"""The tap before the stem: a suffix that starts here takes images."""


def seam(backbone: Backbone, adaptation: Adaptation, pool: str | None) -> int:
    """The tap where the suffix takes over: the last that computes exactly what it computed before training.

    N if nothing in the backbone is touched; i - 1 if block i is changed inside; i if the output of block i is written
    to; IMAGES if even the stem is trained. `pool` is the pooling that is read, if any.
    """
    touched = [*adaptation.side.writes]
    for part, module in backbone.named_parts(pool):
        if changes(adaptation, part, module):
            place, _, number = part.partition(".")
            touched.append({"stem": IMAGES, "pool": backbone.num_blocks}.get(place, int(number or 0) - 1))
    return min(touched, default=backbone.num_blocks)


def changes(adaptation: Adaptation, part: str, module: nn.Module) -> bool:
    """Whether something in a part is replaced or trained."""
    trains = any(adaptation.trains(f"{part}.{name}") for name, _ in module.named_parameters())
    return bool(adaptation.wraps_in(part)) or trains


class Suffix(nn.Module):
    """Features -> the taps that a task wants: a tap at or before the frozen depth is the prefix's own, a later one is
    taken here, after what is written there."""

    def __init__(self, backbone: Backbone, adaptation: Adaptation, wanted: Need) -> None:
        super().__init__()
        if len(pools := poolings(wanted)) > 1:
            raise ValueError(f"one pooling can be read at a time, not {' and '.join(pools)}")
        pool = pools[0] if pools else None
        self.seam = seam(backbone, adaptation, pool)
        self.wanted, self.pool_name = wanted, pool
        self.num_blocks, self.copies = backbone.num_blocks, backbone.copies
        self.num_tokens = backbone.output_shapes[0][0] if backbone.layout.grid else 0
        self.channels_first = backbone.layout.channels_first
        self.side = adaptation.side
        changes_pool = pool is not None and changes(adaptation, "pool", backbone.pools[pool])
        self.own = frozenset(tap for tap in wanted if not self.is_exact(tap, changes_pool))
        """Those of the wanted taps that the prefix cannot give."""
        if sums := sorted(numbers(self.own, "sum")):
            raise ValueError(f"taps up to {sums} are changed by the method, and sums are of frozen ones")
        self.last = last_block(self.own, self.num_blocks) if self.own else 0
        """The last block that has to run here."""
        self.reads_of_prefix = tuple(i for i in self.side.reads if i <= self.seam)

        def statistics_that_move(part: str, module: nn.Module) -> set[str]:
            """Buffers of BatchNorms whose weight is trained; see `train`."""
            norms = [(name, m) for name, m in module.named_modules() if isinstance(m, _BatchNorm)]
            trained = [(n, m) for n, m in norms if adaptation.trains(".".join(filter(None, (part, n, "weight"))))]
            return {".".join(filter(None, (n, buffer))) for n, m in trained for buffer, _ in m.named_buffers()}

        def own(part: str, module: nn.Module) -> nn.Module:
            """A copy of a backbone's module that owns what is trained, shares the rest, and has its wraps put in."""
            moves = statistics_that_move(part, module)

            def tensor(name: str, t: Tensor) -> Tensor:
                return owned(t) if name in moves or adaptation.trains(f"{part}.{name}") else t

            copied = rebuild(module, tensor)
            for names, make in adaptation.wraps_in(part).items():
                wrap(copied, names, make)
            return copied

        self.stem = own("stem", backbone.stem) if self.seam == IMAGES else None
        self.blocks, self.transitions = nn.ModuleDict(), nn.ModuleDict()
        for i in range(max(self.seam, 0) + 1, self.last + 1):
            if i in backbone.transitions:
                self.transitions[str(i)] = own(f"transitions.{i}", backbone.transitions[i])
            self.blocks[str(i)] = own(f"blocks.{i}", backbone.blocks[i])
        pools_here = pool is not None and pooled(pool) in self.own
        self.pool = own("pool", backbone.pools[str(pool)]) if pools_here else None
        self.dtype = torch.float32
        self.native: set[nn.Module] = set()
        self.num_recomputed = 0
        """How many blocks, the first ones, are computed again for the gradient; only their inputs are kept."""
        self.keep_taps: Callable[[], AbstractContextManager[object]] = nullcontext
        """In which context taps of the prefix are saved for the gradient."""
        self.train(False)

    def is_exact(self, tap: Tap, changes_pool: bool) -> bool:
        """Whether the prefix gives this tap as it is."""
        exact_output = self.seam - (self.seam in self.side.writes)
        if tap.kind == "pool":
            return exact_output == self.num_blocks and not changes_pool
        assert isinstance(tap.at, int)
        return tap.at <= (self.seam if tap.kind == "input" else exact_output)

    def hold(self, device: torch.device, dtype: torch.dtype, weights: str = "same") -> None:
        """Hold what is frozen in a floating-point type; blocks that are frozen whole then compute in it natively.

        In the others norms keep theirs, so that they take what a method gives in float32.
        """
        parts = [*self.blocks.values(), *self.transitions.values()]
        mixed = [part for part in (*parts, self.stem, self.pool) if part is not None and trains(part)]
        norms = {m for part in mixed for m in part.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))}
        hold(self, device, dtype, self.copies, weights, keep=norms)
        if device.type == "cuda" and is_low(dtype):
            keep_type_of_stream(norms)
        self.dtype = dtype
        if self.pool is not None and any(True for _ in self.pool.parameters()):  # one without weights takes any type
            parts.append(self.pool)
        self.native = {part for part in parts if is_low(dtype) and not trains(part)}

    @property
    def start(self) -> Tap | None:
        """The tap that the suffix goes on from; None if it takes images."""
        if self.seam in self.side.writes and self.side.source is not None:
            return self.side.source
        return block_output(self.seam) if self.seam >= 0 else None

    @property
    def need(self) -> Need:
        """What the prefix has to hand over; nothing if the suffix takes images."""
        exact = self.wanted - self.own
        if not self.own:
            return exact
        reads = {block_input(i) for i in self.reads_of_prefix}
        return exact | reads | ({self.start} if self.start is not None else set())

    def train(self, mode: bool = True) -> Suffix:
        """Like any module, but a BatchNorm whose weight is frozen keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in [module.weight] if p is not None):
                module.eval()
        return self

    def forward(self, given: Features | Tensor) -> Features:
        """Features that meet `need` (or images, where the stem is trained) -> the taps that are wanted."""
        z = self.stemmed(given) if isinstance(given, Tensor) else None
        given = Features({}) if isinstance(given, Tensor) else given
        taps = {tap: given[tap] for tap in self.wanted - self.own}
        if not self.own:
            return Features(taps, given.sizes)

        def take(tap: Tap, t: Tensor) -> None:
            if tap in self.own:
                taps[tap] = t

        if z is None:
            assert self.start is not None
            z = given[self.start]
        state = None
        with self.keep_taps():
            for i in self.reads_of_prefix:
                state = self.side.read(i, given[block_input(i)], state)
        start = max(self.seam, 0)
        if start in self.side.writes:
            z = self.write(start, z, state)
        take(block_output(start), z)
        for i in range(start + 1, self.last + 1):
            if (transition := str(i)) in self.transitions:
                z = self.run(self.transitions[transition], z)
            take(block_input(i), z)
            if i in self.side.reads:
                state = self.side.read(i, z, state)
            block = self.blocks[str(i)]
            if i <= start + self.num_recomputed and torch.is_grad_enabled() and not counts(block):
                z = checkpoint(self.run, block, z, use_reentrant=False)
            else:
                z = self.run(block, z)
            if i in self.side.writes:
                z = self.write(i, z, state)
            take(block_output(i), z)
        if self.pool is not None:
            take(pooled(str(self.pool_name)), self.run(self.pool, z))
        return Features(taps, given.sizes)

    def stemmed(self, images: Tensor) -> Tensor:
        assert self.stem is not None
        z = self.run(self.stem, images)
        if is_low(self.dtype) and not all(p.requires_grad for p in self.stem.parameters()):
            z = z.to(self.dtype)  # a class token in float32 would carry the blocks' features along
        return z

    def write(self, block: int, z: Tensor, state: Any) -> Tensor:
        """What the side network gives in place of a block's output. Raises ValueError for another batch or width."""
        given: Any = self.side.write(block, z, state)
        channel = 1 if self.channels_first else -1
        fits = isinstance(given, Tensor) and given.ndim == z.ndim
        if not fits or any(given.shape[axis] != z.shape[axis] for axis in (0, channel)):
            what = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{type(self.side).__name__}.write({block}) gave {what} in place of {tuple(z.shape)}")
        return given

    def run(self, part: nn.Module, z: Tensor) -> Tensor:
        if part not in self.native:
            return part(z)
        with natively(z.device, self.dtype):
            return part(z.to(self.dtype))

    def use_plain_attention(self) -> None:
        """Multiply attention matrices out where they are small (up to 128 tokens, or windows of them).

        On CPUs the backward pass of PyTorch's fused attention takes about twice as long (see docs/performance.md).
        """
        if self.num_tokens <= 128:
            for module in self.blocks.modules():
                if hasattr(module, "fused_attn"):
                    setattr(module, "fused_attn", False)  # noqa: B010  (timm's, unknown to nn.Module)

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth by the linear rule: block i of N drops its residual branches with rate (i - 1) / (N - 1).

        Only blocks of the suffix ever drop, which keeps the prefix constant; the DTL authors' code drops all over.
        """
        from timm.layers import DropPath

        for number, block in self.blocks.items():
            p = rate * (int(number) - 1) / max(self.num_blocks - 1, 1)
            for name in ("drop_path", "drop_path1", "drop_path2"):
                if hasattr(block, name):
                    setattr(block, name, DropPath(p) if p > 0 else nn.Identity())


def trains(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters())


def wrap(part: nn.Module, names: str | tuple[str, ...], make: Make) -> None:
    """Put in place of a sub-layer what `make` makes of it; several in a row are replaced where the first stood."""
    if isinstance(names, str):
        part.set_submodule(names, make(part.get_submodule(names)))
        return
    row = nn.Sequential(*(part.get_submodule(name) for name in names))
    for name in names:
        part.set_submodule(name, nn.Identity())
    part.set_submodule(names[0], make(row))


def counts(block: nn.Module) -> bool:
    """Whether running a block twice would change it: BatchNorms that gather statistics."""
    return any(isinstance(m, _BatchNorm) and m.training for m in block.modules())
