"""Pretrained networks opened up: `open_backbone` turns a name, a file or a timm module into a `Backbone`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from sidetune.backbones.backbone import Backbone, Card
from sidetune.backbones.cnn import EFFICIENTNET, RESNET
from sidetune.backbones.convnext import CONVNEXT
from sidetune.backbones.eva import EVA
from sidetune.backbones.family import Family, Parts, patches_of
from sidetune.backbones.mit import MIT, MixTransformer
from sidetune.backbones.packaged import PACKAGED
from sidetune.backbones.sizes import Size, Steps
from sidetune.backbones.structure import frozen, rebuild
from sidetune.backbones.swin import SWIN
from sidetune.backbones.traced import Shape, traced
from sidetune.backbones.vit import VIT
from sidetune.backbones.weights import create, digest_of
from sidetune.errors import unknown

__all__ = ["FAMILIES", "Backbone", "Card", "Family", "Parts", "Steps", "family_named", "family_of", "open_backbone"]

FAMILIES: dict[type[nn.Module], Family] = {
    VisionTransformer: VIT,
    Eva: EVA,
    SwinTransformer: SWIN,
    ConvNeXt: CONVNEXT,
    ResNet: RESNET,
    EfficientNet: EFFICIENTNET,
    MixTransformer: MIT,
}
"""By class, timm's but the last. A family of your own joins with `FAMILIES[Theirs] = MINE`."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def open_backbone(
    source: str | nn.Module,
    *,
    image_size: int | Size | None = None,
    pretrained: bool = True,
    architecture: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    as_0_1: bool = False,
) -> Backbone:
    """Open a network: a timm name, a packaged name, a weights file (with its timm `architecture`), or a timm module.

    A module of the caller's is left untouched; its weights are shared, not copied. `image_size` (pixels, or height and
    width) resamples position embeddings where the network has them; the default is the network's own size. Networks of
    maps (`Backbone.steps`) run on images of other sizes as well, those of tokens on this one alone; a module that is
    opened again for another size shares its weights. `mean` and `std` default to what the network was pretrained with.
    `as_0_1` opens a Swin as version 0.1 did, with windows that grow with the image, for what was trained on that.

    Raises ValueError for unknown names, families and image sizes that the network cannot take, ConnectionError if a
    hub cannot be reached, MissingExtra for a packaged backbone that is not installed.
    """
    model: Any = (
        source if isinstance(source, nn.Module) else create(source, architecture=architecture, pretrained=pretrained)
    )
    if type(model) not in FAMILIES:
        known = ", ".join(cls.__name__ for cls in FAMILIES)
        raise ValueError(f"a {type(model).__name__} cannot be opened; families known: {known} (of timm)")
    family = FAMILIES[type(model)]
    family = family.as_0_1 or family if as_0_1 else family
    model = rebuild(model, lambda _, t: frozen(t)).eval()
    model.reset_classifier(0)
    config = getattr(model, "pretrained_cfg", None) or {}
    if isinstance(source, str) and source in PACKAGED:
        config = {**config, "mean": PACKAGED[source].mean, "std": PACKAGED[source].std}
    on_meta = any(p.is_meta for p in model.parameters())
    digest = "meta" if on_meta else digest_of(model.state_dict())
    native = family.native_size(model) or tuple(config.get("input_size", (3, 224, 224))[1:])
    size = resize(family, model, image_size, native)
    for parameter in model.parameters():  # resizing may have made new ones
        parameter.requires_grad_(False)

    parts = family.open(model)
    try:
        found = traced(parts, size)
    except (RuntimeError, AssertionError) as e:
        fitting = f" (it takes heights and widths {parts.steps})" if parts.steps else ""
        raise ValueError(
            f"this {family} backbone cannot take images of {size[0]} x {size[1]} pixels{fitting}: {e}"
        ) from e
    check_layout(parts, found.output_shapes[0])
    card = Card(
        name=name_of(source, config),
        architecture=config.get("architecture") or architecture or "",
        family=family.name,
        digest=digest,
        image_size=size,
        mean=tuple(mean or config.get("mean") or IMAGENET[0]),
        std=tuple(std or config.get("std") or IMAGENET[1]),
        revised=parts.revised,
    )
    return Backbone(
        **vars(parts),
        **vars(found),
        card=card,
        native_size=native,
    )


def check_layout(parts: Parts, shape: Shape) -> None:
    """Raises ValueError where the stem's output is not laid out as the family's `open` said."""
    layout, what = parts.layout, f"the layout that opens a {parts.family} network says"
    if parts.family.tokens != (layout.grid is not None):
        told = "no tokens, and opens networks into" if layout.grid else "tokens, and opens networks into maps, without"
        raise ValueError(f"the family {parts.family} has {told} a grid of them; tokens= and the layout's grid= agree")
    if layout.grid is None and len(shape) != 3:
        raise ValueError(f"{what} maps (no grid), but its stem gives {shape} an image; rows of tokens have a grid=")
    if layout.grid is None:
        return
    rows, columns = layout.grid
    if len(shape) != 2 or shape[0] != layout.num_prefix_tokens + rows * columns:
        raise ValueError(
            f"{what} {layout.num_prefix_tokens} class and register tokens and {rows} x {columns} patches, but its stem "
            f"gives {shape} (token, channel) an image"
        )


def resize(family: Family, model: Any, image_size: int | Size | None, native: Size) -> Size:
    """Set the network to an image size and return it."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size or native)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size must be a number of pixels or (height, width), got {image_size!r}")
    if (embed := patches_of(model)) is None:
        return size
    for pixels, patch in zip(size, getattr(embed, "patch_size", (1, 1)), strict=True):
        if pixels % patch:
            below = pixels - pixels % patch
            near = f"{below} and {below + patch}" if below else f"{patch}"
            raise ValueError(f"image size {pixels} is no multiple of the patch size {patch}; nearest: {near}")
    if size != native:
        family.resize(model, size)
    return size


def family_named(name: str) -> Family:
    """The family that a card names. Raises ValueError, listing them, if there is none."""
    families = {family.name: family for family in FAMILIES.values()}
    if name not in families:
        raise unknown("family", name, families)
    return families[name]


def family_of(card: Card) -> Family:
    """The family of a network as it was opened."""
    family = family_named(card.family)
    return family if card.revised else family.as_0_1 or family


def name_of(source: str | nn.Module, config: Mapping[str, Any]) -> str:
    """A name that `open_backbone` takes again, with timm's tag of the weights; '' for a module of the caller's."""
    if isinstance(source, nn.Module):
        return ""
    tag = config.get("tag")
    return f"{source}.{tag}" if tag and source == config.get("architecture") else source
