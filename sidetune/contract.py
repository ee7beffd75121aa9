"""What every method promises, as checks that run on any method and backbone, yours included."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sidetune.backbones import Backbone
from sidetune.backbones.prefix import Prefix
from sidetune.backbones.structure import empty, rebuild
from sidetune.backbones.weights import digest_of
from sidetune.features import Need
from sidetune.methods import Method
from sidetune.model import AdaptedModel, adapt


def check_method(method: Method, backbone: Backbone) -> None:
    """Raise AssertionError, naming the promise, if the method breaks one on this backbone.

    Trains for two steps on random images; use a small network. ValueError and MethodRefused come through.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.randn(4, 3, *backbone.card.image_size)
        labels = torch.tensor([0, 1, 2, 0])
        method = method.prepare(backbone, [(images, labels)], num_classes=3)

        def make() -> AdaptedModel:
            return adapt(backbone, method, num_classes=3)

        starts_as_promised(make(), backbone, images)
        trains_what_it_says(make(), images, labels)
        leaves_the_rest_alone(make(), backbone, images, labels)
        features_stand_for_images(make(), images)
        its_trained_part_is_all_it_needs(make(), make(), images)
        computes_in_bf16(make(), images, labels)
        computes_on_one_device(make(), images)


def starts_as_promised(model: AdaptedModel, backbone: Backbone, images: Tensor) -> None:
    pool = model.suffix.pool_name
    need = Need(pooled=frozenset({pool}))
    plain = Prefix(backbone, need)(images, need).pooled[pool]
    with torch.no_grad():
        adapted = model.suffix(model.features(images))
    assert adapted.shape == (len(images), backbone.num_features), "the pooled feature has the backbone's width"
    if model.method.starts_as_identity:
        assert torch.equal(adapted, plain), "before training the features are exactly the backbone's"


def trains_what_it_says(model: AdaptedModel, images: Tensor, labels: Tensor) -> None:
    disturb(model)  # away from starts at zero, where some gradients are zero too
    model.train()
    model.task.loss(model(images), labels).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.isfinite().all(), f"{name} is trained and gets a finite gradient"
            assert p.grad.any() or dead_by_nature(name), f"{name} is trained, so its gradient is not zero everywhere"
        else:
            assert p.grad is None, f"{name} is frozen and gets no gradient"


def dead_by_nature(name: str) -> bool:
    """The bias of keys shifts all scores of a query alike, which softmax ignores; so has a bias before a norm."""
    return name.endswith(".bias")


def leaves_the_rest_alone(model: AdaptedModel, backbone: Backbone, images: Tensor, labels: Tensor) -> None:
    def frozen_digest() -> str:
        trained = model.trained()  # where several layers hold one parameter, under its first name alone
        state = model.state_dict(keep_vars=True)
        return digest_of({n: t for n, t in state.items() if n not in trained and not t.requires_grad})

    def parts_digest() -> str:
        parts = backbone.named_parts(backbone.native_pool)
        return digest_of({f"{part}.{name}": t for part, m in parts for name, t in m.state_dict().items()})

    frozen, parts = frozen_digest(), parts_digest()
    before = tensors_of(model, images)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model.train()
        model.task.loss(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = tensors_of(model, images)
    assert frozen_digest() == frozen, "training changes no frozen parameter and no frozen statistic"
    assert parts_digest() == parts, "training changes nothing in the backbone that models share"
    assert all(map(torch.equal, before, after)), "the prefix computes bit for bit what it computed before"
    if model.prefix is not None:
        assert not any(m.training for m in model.prefix.modules()), "train() does not wake the prefix"


def tensors_of(model: AdaptedModel, images: Tensor) -> list[Tensor]:
    features = model.features(images)
    return [] if isinstance(features, Tensor) else features.tensors()


def features_stand_for_images(model: AdaptedModel, images: Tensor) -> None:
    disturb(model)
    features = model.features(images)
    assert torch.equal(model(images), model(features)), "logits from features are those from images"
    if not isinstance(features, Tensor):
        assert not any(t.requires_grad for t in features.tensors()), "features keep no graph"


def its_trained_part_is_all_it_needs(model: AdaptedModel, other: AdaptedModel, images: Tensor) -> None:
    disturb(model)
    other.load_trained(model.trained())
    assert torch.equal(model(images), other(images)), "the trained part carries a model over to another backbone copy"


def computes_in_bf16(model: AdaptedModel, images: Tensor, labels: Tensor) -> None:
    for held in (model, copy.deepcopy(model).hold(torch.bfloat16)):
        disturb(held.train())
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = held.task.loss(held(images), labels)
        loss.backward()
        assert loss.isfinite(), "a step in bf16 has a finite loss"


def computes_on_one_device(model: AdaptedModel, images: Tensor) -> None:
    """Without values, on a GPU that is only pretended: tensors that a method makes elsewhere are found without one."""
    with FakeTensorMode():
        with torch.device("cuda"):
            there = rebuild(model, empty)
        logits = there(torch.empty(images.shape, device="cuda"))
    assert logits.is_cuda, "images on a GPU have their logits there"


@torch.no_grad()
def disturb(model: AdaptedModel) -> None:
    """Move every trained parameter a little."""
    for p in model.parameters():
        if p.requires_grad:
            p.add_(torch.randn_like(p), alpha=0.02)
