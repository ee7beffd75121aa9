"""Which blocks DTLv2 reads and writes (journal, section 5.2): about every m-th and every n-th of a stage."""

from __future__ import annotations

from collections.abc import Sequence

from sidetune.backbones.backbone import Backbone

EVERY_READ, EVERY_WRITE = 4, 2
"""m and n of the paper."""


def spread(blocks: Sequence[int], every: int, *, keep_all: bool) -> list[int]:
    """The first of some blocks in a row, every `every`-th after it, and the last.

    One that stands within half a step of the last gives way to it, unless `keep_all`.
    """
    chosen = list(blocks[::every])
    if chosen and blocks[-1] != chosen[-1]:
        close = blocks[-1] - chosen[-1] <= every / 2
        chosen = [*(chosen[:-1] if close and not keep_all else chosen), blocks[-1]]
    return chosen


def places(
    backbone: Backbone,
    *,
    first_write: int | None,
    m: int | None,
    n: int | None,
    reads: tuple[int, ...] | None,
    writes: tuple[int, ...] | None,
    joined: bool,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The blocks whose input is read and those whose output is written to, in order.

    With `joined`, h goes on from stage to stage, otherwise it starts at 0 in each. Lists that are given are taken as
    they are; then m (n and first_write) must be None. On Swin's 24 blocks this is the paper's figure 4. A block that
    changes width or size itself is never read: its input does not fit h. Raises ValueError for blocks that do not
    exist, reads that reach no write, writes that nothing reaches, and m or n beyond every stage.
    """
    stages: dict[int, list[int]] = {}
    for i, stage in backbone.stages.items():
        stages.setdefault(stage, []).append(i)
    for name, every in (("m", m), ("n", n)):
        if every is not None and every > (longest := max(map(len, stages.values()))):
            raise ValueError(f"{name} = {every} is beyond every stage; the longest has {longest} blocks")
    readable = [i for i in backbone.blocks if backbone.keeps_shape(i)]
    plain = len(stages) == 1

    def carries(i: int, j: int) -> bool:
        return i <= j and (joined or backbone.stages[i] == backbone.stages[j])

    if reads is None:
        rows = ([i for i in row if i in readable] for row in stages.values())
        chosen = [i for row in rows for i in spread(row, m or EVERY_READ, keep_all=plain)]
    else:
        chosen = listed("reads", reads, readable)
    if writes is None:
        first = first_write or backbone.num_blocks // 2 + 1
        if first > backbone.num_blocks:
            raise ValueError(f"first_write (M) must be in 1..{backbone.num_blocks}, got {first}")
        rows = ([j for j in row if j >= first and any(carries(i, j) for i in chosen)] for row in stages.values())
        written = [j for row in rows for j in spread(row, n or EVERY_WRITE, keep_all=plain)]
    else:
        written = listed("writes", writes, list(backbone.blocks))
        if starved := [j for j in written if not any(carries(i, j) for i in chosen)]:
            raise ValueError(f"writes {starved} have nothing to add: no block in {chosen} is read before them")
    useful = [i for i in chosen if any(carries(i, j) for j in written)]
    if not useful or (reads is not None and useful != chosen):
        raise ValueError(f"reads {[i for i in chosen if i not in useful]} reach no write; the writes are {written}")
    return tuple(useful), tuple(written)


def listed(name: str, blocks: tuple[int, ...], known: Sequence[int]) -> list[int]:
    if not blocks:
        raise ValueError(f"{name} is empty: name at least one of blocks {list(known)}, or leave it out")
    if bad := [i for i in blocks if i not in known]:
        raise ValueError(f"{name} has blocks {bad}; on this backbone it can have {list(known)}")
    return sorted(set(blocks))
