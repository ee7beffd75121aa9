"""Run by test_fit.py in a process of its own, since what checks the shapes of calls in tests cannot be compiled."""

import timm
import torch
from torch._dynamo.utils import counters

import sidetune
from sidetune.contract import disturb
from sidetune.train.step import backward

network = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=4, embed_dim=48, num_heads=3, img_size=32)
vit = sidetune.open_backbone(network)
for method in ("dtl+", "mist"):
    model, plain = (sidetune.adapt(vit, method, num_classes=3) for _ in range(2))
    disturb(model)
    plain.load_trained(model.trained())
    model.compile_halves(backend="eager")  # tracing is what is looked at; code made of it takes a minute
    graphs = []
    for _ in range(2):
        for num_images in (4, 4, 3, 1):
            images, labels = torch.randn(num_images, 3, 32, 32), torch.arange(num_images) % 3
            for net in (model, plain):
                net.train()
                backward(net, images, labels)
            with torch.no_grad():
                assert torch.allclose(model.eval()(images), plain.eval()(images), atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-5), (method, name)
    print(method, *graphs)
