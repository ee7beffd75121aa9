"""What a careful user would run without sidetune: the same timm network, adapted by others or by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn, optim
from torch.nn import functional as F

NUM_CLASSES = 100


def network(name: str, checkpointing: bool = False) -> Any:
    model = timm.create_model(name, num_classes=NUM_CLASSES)
    if checkpointing:
        model.set_grad_checkpointing(True)
    return model


def full(name: str) -> nn.Module:
    """Plain full fine-tuning."""
    return network(name)


def full_checkpointed(name: str) -> nn.Module:
    """Full fine-tuning with timm's gradient checkpointing: what one would try first."""
    return network(name, checkpointing=True)


def linear(name: str) -> nn.Module:
    """The head alone; PyTorch keeps no graph below it."""
    model = network(name).requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    return model


def bitfit(name: str) -> nn.Module:
    model = network(name)
    for parameter, p in model.named_parameters():
        p.requires_grad_(parameter.endswith(".bias") or parameter.startswith("head"))
    return model


def peft_lora(name: str, checkpointing: bool = False) -> nn.Module:
    """PEFT's LoRA of rank 8 on the fused qkv, head trained."""
    config = LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], modules_to_save=["head"])
    return get_peft_model(network(name, checkpointing), config)


def peft_lora_checkpointed(name: str) -> nn.Module:
    return peft_lora(name, checkpointing=True)


PEERS: dict[str, Callable[[str], nn.Module]] = {
    "full": full,
    "full, checkpointed": full_checkpointed,
    "bitfit": bitfit,
    "peft lora": peft_lora,
    "peft lora, checkpointed": peft_lora_checkpointed,
    "linear": linear,
}


def make_step(model: nn.Module, images: Tensor, labels: Tensor, micro_batch: int | None = None) -> Callable[[], None]:
    """A step of bf16 autocast and fused AdamW on what asks for gradients."""
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    size = micro_batch or len(labels)
    model.train()

    def step() -> None:
        for start in range(0, len(labels), size):
            x, y = images[start : start + size], labels[start : start + size]
            with torch.autocast(images.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(x), y) * (len(y) / len(labels))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
