"""What every family of backbones promises of its networks, as checks that run on any of them, yours included."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidetune.backbones import Backbone, open_backbone
from sidetune.backbones.family import LINEAR, patches_of
from sidetune.backbones.sizes import Size
from sidetune.backbones.structure import rebuild, shared
from sidetune.backbones.weights import digest_of
from sidetune.errors import CannotMerge
from sidetune.seam.adaptation import Adaptation
from sidetune.seam.levels import levels
from sidetune.seam.prefix import Prefix
from sidetune.seam.suffix import Suffix, wrap
from sidetune.seam.taps import Need, pooled

ROUNDING = 1e-4
"""Of the largest number."""


def check_family(network: nn.Module, *, image_size: int | Size | None = None) -> None:
    """Raise AssertionError, naming what the family of a network states and what was seen instead.

    Runs it and what it opens into on random images of several sizes, with all weights moved a little, so that layers
    which start as nothing count; use a small network. Sizes that the family refuses are passed over, `image_size`
    (default: the network's own) is the first. What `open_backbone` raises comes through.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        plain: Any = moved(network).eval()
        plain.reset_classifier(0)
        before = digest_of(plain.state_dict())
        backbone = open_backbone(plain, image_size=image_size)
        layers_are_called(backbone)
        branch_runs_in_a_row(backbone)
        capabilities_are_facts(backbone)
        places_are_where_the_layout_says(backbone)
        levels_are_maps(backbone)
        for opened, size in sizes(plain, backbone):
            computes_what_the_network_does(plain, opened, size)
        assert digest_of(plain.state_dict()) == before, f"opening changes no weights, but {backbone.family} did"


def moved(network: nn.Module) -> nn.Module:
    def tensor(_: str, t: Tensor) -> Tensor:
        if not isinstance(t, nn.Parameter):
            return t.clone()
        scale = 0.1 if t.ndim < 2 else 0.5 / math.sqrt(t.numel() / len(t))
        return nn.Parameter(t + scale * torch.randn_like(t), requires_grad=False)

    return rebuild(network, tensor)


def layers_are_called(backbone: Backbone) -> None:
    family = backbone.family
    for i, block in backbone.blocks.items():
        layers, kind = dict(block.named_modules()), type(block).__name__
        for role, path in backbone.paths(*family.roles).items():
            told = f"{family} states the role {role} at {path}, but"
            has = ", ".join(filter(None, layers))
            assert path in layers, f"{told} block {i}, a {kind}, has no such layer; it has {has}"
            assert path in backbone.called[f"blocks.{i}"], (
                f"{told} block {i}, a {kind}, computes without calling it as a module (by its weight, perhaps), so "
                f"what a method puts there would never run; open blocks that call it, or leave the role out"
            )
            layer = layers[path]
            is_linear = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
            assert role not in LINEAR or is_linear, (
                f"{told} in block {i} that is a {type(layer).__name__}; roles {', '.join(LINEAR)} are nn.Linear, or "
                f"convolutions of 1 x 1"
            )


def branch_runs_in_a_row(backbone: Backbone) -> None:
    names = backbone.family.mlp_branch
    for i, block in backbone.blocks.items() if names else ():
        told = f"{backbone.family} states that {', '.join(names)} run one straight after the other (mlp_branch), but"
        has = {name for name, _ in block.named_modules()}
        assert has.issuperset(names), f"{told} block {i} has no {', '.join(n for n in names if n not in has)}"
        joined = shared(block)
        wrap(joined, names, lambda row: row)
        z = torch.randn(1, *backbone.input_shapes[i])
        assert close(run(joined, z), block(z)), f"{told} block {i} computes something else if they do; leave it empty"


def run(module: nn.Module, z: Tensor) -> Tensor | None:
    """None where it does not run."""
    try:
        out: Tensor = module(z)
    except (RuntimeError, TypeError, ValueError, AssertionError):
        return None
    return out


def close(found: Tensor | None, expected: Tensor) -> bool:
    if found is None or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= ROUNDING * expected.abs().max())


def capabilities_are_facts(backbone: Backbone) -> None:
    family, blocks = backbone.family, backbone.blocks
    layers = [m for block in blocks.values() for m in block.modules()]
    changing = [i for i in blocks if not backbone.keeps_shape(i)]
    stages, norms = sorted(set(backbone.stages.values())), [m for m in layers if isinstance(m, _BatchNorm)]
    seen = {
        "staged": (len(stages) > 1, f"stages are {stages}"),
        "keeps_shape": (not changing, f"blocks that change the shape of what they are given are {changing}"),
        "batch_norms": (bool(norms), f"blocks have {len(norms)} BatchNorms"),
    }
    for name, (fact, told) in seen.items():
        stated = getattr(family, name)
        assert stated == fact, (
            f"{family} states {name}={stated}, but in this network {told}; state {name}={fact}, or check a network "
            f"that shows it"
        )
    linear = {type(m).__name__ for m in layers if isinstance(m, nn.Linear)}
    assert not (family.convolutions and linear), f"{family} states convolutions=True, but its blocks have {linear}"
    if family.prompts:
        for i, block in blocks.items():
            x = torch.randn(1, backbone.input_shapes[i][0] + 3, backbone.width(i))
            order = torch.randperm(x.shape[1])
            out = run(block, x)
            assert out is not None and close(run(block, x[:, order]), out[:, order]), (
                f"{family} states prompts=True, but block {i} does not take 3 more tokens in any order and treat them "
                f"alike; leave prompts out"
            )


def places_are_where_the_layout_says(backbone: Backbone) -> None:
    """In the stem's output: the tokens in front, the class token first of them, rows and columns of the patches."""
    family, layout, stem = backbone.family, backbone.layout, backbone.stem
    height, width = backbone.card.image_size
    images = torch.randn(2, 3, height, width)
    first, second = layout.to_side(stem(images))
    if layout.grid is not None:
        same = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if torch.equal(a, b)]
        assert same == list(range(layout.num_prefix_tokens)), (
            f"the layout of this {family} network says that {layout.num_prefix_tokens} tokens stand in front of the "
            f"patches (num_prefix_tokens), but those that are the same for every image are numbers {same}"
        )
    if "token" in backbone.pools:
        token_is_first(backbone, images[:1])
    changed = images[:1].clone()
    changed[:, :, height // 2 :, : width // 2] += 1
    a, b = (layout.to_maps(layout.split(layout.to_side(stem(x)))[1]) for x in (images[:1], changed))
    rows, columns = a.shape[2:]
    row, column = divmod(int((a - b).abs().sum(dim=1).argmax()), columns)
    assert min(rows, columns) < 2 or (row >= rows // 2 and column < (columns + 1) // 2), (
        f"as the layout of this {family} network has it, a change in the lower left of an image is largest in row "
        f"{row} of {rows}, column {column} of {columns}, counted from 0; check grid= and channels_first="
    )


def token_is_first(backbone: Backbone, images: Tensor) -> None:
    name, stem = backbone.family.class_token or "", shared(backbone.stem)
    told = f"{backbone.family} states class_token={name!r}, a parameter of the stem"
    has = dict(stem.named_parameters())
    assert name in has, f"{told}, and has a pooling `token`, but its stem has {', '.join(has)}"
    before = stem(images)
    owner, _, own = name.rpartition(".")
    stem.get_submodule(owner)._parameters[own] = nn.Parameter(has[name] + 1, requires_grad=False)
    moves = [i for i, (a, b) in enumerate(zip(before[0], stem(images)[0], strict=True)) if not torch.equal(a, b)]
    assert moves == [0], f"{told}, and the pooling `token` reads the first token, but it changes tokens {moves}"


def levels_are_maps(backbone: Backbone) -> None:
    """What tasks read that say something of every place."""
    height, width = backbone.card.image_size
    found = levels(backbone)
    need = Need(level.tap for level in found)
    features = Prefix(backbone, need)(torch.randn(1, 3, height, width), need)
    for level in found:
        _, channels, rows, columns = shape = tuple(level.maps(features[level.tap]).shape)
        fits = channels == level.width and round(height / rows) == round(width / columns) == level.reduction
        assert fits, (
            f"{level.tap} of this {backbone.family} network is read as maps of {level.width} channels, "
            f"{level.reduction} pixels a place, but is {shape} (batch, channel, row, column) "
            f"for images of {height} x {width}; check the layout"
        )


def sizes(plain: nn.Module, backbone: Backbone) -> Iterator[tuple[Backbone, Size]]:
    """The size it is open for, a higher one, one that is a step off in both directions, and the least."""
    (height, width), steps = backbone.card.image_size, backbone.steps
    yield backbone, (height, width)
    step = steps.of if steps else getattr(patches_of(plain), "patch_size", (1, 1))
    further = [(2 * height, width), (height + step[0], width + 2 * step[1])]
    if steps:
        least = [max(-(-n // s) * s, s) for n, s in zip(steps.least, steps.of, strict=True)]
        for size in (*further, (least[0], least[1])):
            yield backbone, size
        return
    for size in further:
        try:
            opened = open_backbone(plain, image_size=size)
        except ValueError:  # this is a network of one size
            return
        yield opened, size


def computes_what_the_network_does(plain: nn.Module, backbone: Backbone, size: Size) -> None:
    """In both halves, parted in the middle."""
    family, images = backbone.family, torch.randn(2, 3, *size)
    tap, middle = pooled(backbone.native_pool), backbone.num_blocks // 2 + 1
    suffix = Suffix(backbone, Adaptation(trains=lambda name: name.startswith(f"blocks.{middle}.")), Need({tap}))
    try:
        found = suffix(Prefix(backbone, suffix.need)(images, suffix.need))[tap]
    except RuntimeError as e:
        raise AssertionError(f"{family} takes images of {size[0]} x {size[1]}, it says, but there is: {e}") from e
    twin = copy.deepcopy(plain)
    try:
        family.resize_plain(twin, size)
    except CannotMerge:  # there the plain network computes something else, the family says
        return
    expected: Tensor = twin(images)
    assert found.shape == expected.shape, (
        f"the pooling {backbone.native_pool} gives what the network itself does, {tuple(expected.shape)} with its "
        f"classifier off, but gave {tuple(found.shape)}; check native_pool= and pools= of {family}"
    )
    assert close(found, expected), (
        f"stem, blocks, transitions and the pooling {backbone.native_pool}, one after the other, compute what the "
        f"network itself does, but at {size[0]} x {size[1]} they are off by {(found - expected).abs().max():.2g} "
        f"(largest: {expected.abs().max():.2g}); what does the network do between them that "
        f"{family} opens into none of them?"
    )
