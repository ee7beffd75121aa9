"""DTL and DTL+ against tensors of the authors' own implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import sidetune

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*.npz"))


def their_name(ours):
    """Their name of one of our trained tensors."""
    words = ours.split(".")
    if ours.startswith("suffix.side.w."):
        return f"lora_dict.{int(words[3]) - 1}.lora_{'A' if words[4] == 'a' else 'B'}"
    return "lora_fusion.weight" if ours.startswith("suffix.side.g.") else ours


def difference(found, expected):
    expected = torch.as_tensor(expected)
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_outputs_and_gradients_are_the_authors(path):
    golden = np.load(path)
    dim, depth, heads, rank, kernel, first = (
        int(golden[f"meta.{name}"]) for name in ("dim", "depth", "heads", "rank", "kernel", "first_write_block")
    )
    vit = VisionTransformer(patch_size=16, embed_dim=dim, depth=depth, num_heads=heads, num_classes=0)
    vit.load_state_dict({name: torch.from_numpy(golden[f"param.{name}"]) for name in vit.state_dict()})
    choices = {"rank": rank, "first_write": first + 1, "beta": float(golden["meta.beta"])}
    method = "dtl+" if kernel else "dtl"
    model = sidetune.adapt(vit, method, num_classes=7, **choices, **({"kernel": kernel} if kernel else {}))
    model.load_trained({name: torch.from_numpy(golden[f"param.{their_name(name)}"]) for name in model.trained()})

    model.train()
    logits = model(torch.from_numpy(golden["images"]).float())
    loss = model.task.loss(logits, torch.from_numpy(golden["labels"]))
    loss.backward()

    assert difference(logits, golden["logits"]) < 1e-5
    assert abs(loss.item() - float(golden["loss"])) < 1e-5
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {their_name(name) for name in trained} == {k[5:] for k in golden.files if k.startswith("grad.")}
    for name, parameter in trained.items():
        assert difference(parameter.grad, golden[f"grad.{their_name(name)}"]) < 1e-5, name


def test_there_are_golden_tensors():
    assert len(GOLDEN) == 2
