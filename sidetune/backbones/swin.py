"""timm's SwinTransformer (v1): patch merging in front of stages 2 to 4, channels-last maps."""

from timm.models.swin_transformer import SwinTransformer

from sidetune.backbones.backbone import Parts
from sidetune.backbones.layout import Layout
from sidetune.backbones.staged import staged_parts


def open_swin(swin: SwinTransformer) -> Parts:
    return staged_parts(
        "swin",
        stem=swin.patch_embed,
        stages=[(stage.downsample, list(stage.blocks)) for stage in swin.layers],
        norm=swin.norm,
        norm_first=True,
        global_pool=swin.head.global_pool,
        layout=Layout(),
    )
