"""timm's ConvNeXt: downsampling in front of stages 2 to 4, channels-first maps."""

from timm.models.convnext import ConvNeXt
from torch import nn

from sidetune.backbones.family import Family, Parts
from sidetune.backbones.layout import Layout
from sidetune.backbones.sizes import Steps
from sidetune.backbones.staged import staged_parts


def open_convnext(net: ConvNeXt) -> Parts:
    norm_first = not isinstance(net.norm_pre, nn.Identity)
    if not isinstance(getattr(net.head, "pre_logits", nn.Identity()), nn.Identity):
        raise ValueError("a ConvNeXt whose head has a hidden layer cannot be opened; pass one without")
    reduction = net.feature_info[-1]["reduction"]
    return staged_parts(
        CONVNEXT,
        stem=net.stem,
        stages=[(stage.downsample, list(stage.blocks)) for stage in net.stages],
        norm=net.norm_pre if norm_first else net.head.norm,
        norm_first=norm_first,
        global_pool=net.head.global_pool,
        layout=Layout(channels_first=True),
        steps=Steps(least=(reduction, reduction)),
    )


CONVNEXT = Family(
    name="convnext",
    open=open_convnext,
    staged=True,
    roles={"mlp_norm": "norm", "mlp": "mlp", "fc1": "mlp.fc1", "fc2": "mlp.fc2"},
    mlp_branch=("norm", "mlp"),
)
"""A block has one branch: in front of the MLP's norm stands its convolution, which the branch reads."""
