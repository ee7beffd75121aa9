"""timm's ResNet and EfficientNet: the first block of a stage changes width and size itself, channels-first maps."""

from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn

from sidetune.backbones.family import Family, Parts
from sidetune.backbones.layout import Layout
from sidetune.backbones.sizes import Steps
from sidetune.backbones.staged import staged_parts


def open_resnet(net: ResNet) -> Parts:
    return staged_parts(
        RESNET,
        stem=nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool),
        stages=[(None, list(layer)) for layer in (net.layer1, net.layer2, net.layer3, net.layer4)],
        norm=nn.Identity(),
        norm_first=True,
        global_pool=net.global_pool,
        layout=Layout(channels_first=True),
        steps=Steps(),
    )


def open_efficientnet(net: EfficientNet) -> Parts:
    return staged_parts(
        EFFICIENTNET,
        stem=nn.Sequential(net.conv_stem, net.bn1),
        stages=[(None, list(stage)) for stage in net.blocks],
        norm=nn.Sequential(net.conv_head, net.bn2),
        norm_first=True,
        global_pool=net.global_pool,
        layout=Layout(channels_first=True),
        steps=Steps(),
    )


RESNET = Family(name="resnet", open=open_resnet, staged=True, keeps_shape=False, batch_norms=True, convolutions=True)
EFFICIENTNET = Family(
    name="efficientnet",
    open=open_efficientnet,
    staged=True,
    keeps_shape=False,
    batch_norms=True,
    convolutions=True,
)
