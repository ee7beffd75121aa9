"""Types in which frozen weights are held and norms compute."""

import pytest
import torch
from conftest import tiny_backbone
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import sidetune
from sidetune.backbones.held import InTypeOfStream, keep_type_of_stream
from sidetune.backbones.structure import empty, rebuild


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_norms_of_blocks_in_training_keep_the_type_of_the_stream_on_a_gpu(kind):
    """CUDA's autocast would have them keep and give float32."""
    model = sidetune.adapt(tiny_backbone(kind), "lora", num_classes=3)
    with FakeTensorMode():
        with torch.device("cuda"):
            there = rebuild(model, empty)
        there.hold(torch.bfloat16, "cuda")
        here = rebuild(model, empty).hold(torch.bfloat16, "cpu")
    norms = ["norm1", "norm2"]
    assert all(type(b.get_submodule(n)) is InTypeOfStream for b in there.suffix.blocks.values() for n in norms)
    assert not any(isinstance(m, InTypeOfStream) for m in here.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_norm_in_the_type_of_its_stream(dtype):
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(4, 8, dtype=dtype)
    keep_type_of_stream([norm])
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, F.layer_norm(x, (8,), norm.weight.to(dtype), norm.bias.to(dtype)), rtol=0, atol=0)
    y.sum().backward()
    assert norm.weight.grad.dtype == torch.float32
