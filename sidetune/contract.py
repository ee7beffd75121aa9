"""What every method promises, as checks that run on any method and backbone, yours included."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sidetune.backbones import Backbone
from sidetune.backbones.structure import empty, rebuild
from sidetune.choose.look import start_by
from sidetune.methods import Method
from sidetune.methods.fitting import check_is_method
from sidetune.model import AdaptedModel, adapt
from sidetune.saved import from_saved
from sidetune.seam.prefix import Prefix
from sidetune.seam.taps import Need, pooled


def check_method(method: Method, backbone: Backbone) -> None:
    """Raise AssertionError, naming the promise, if the method breaks one on this backbone.

    Trains for two steps on random images; use a small network. ValueError and MethodRefused come through.
    """
    check_is_method(method)
    reason = method.refuses(backbone.family)
    assert reason is None or isinstance(reason, str), f"refuses gives the reason or None, but gave {reason!r}"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.randn(4, 3, *backbone.card.image_size)
        labels = torch.tensor([0, 1, 2, 0])
        before = tensors_in(backbone)
        method = method.prepare(backbone, [(images, labels)], num_classes=3)

        def make() -> AdaptedModel:
            return adapt(backbone, method, num_classes=3)

        starts_as_promised(make(), backbone, images)
        begins(make(), images, labels)
        trains_what_it_says(make(), images, labels)
        leaves_the_rest_alone(make(), images, labels)
        touched = differing(before, tensors_in(backbone))
        assert not touched, f"what models share stays as it is, but adapting or training changed {touched}"
        features_stand_for_images(make(), images)
        its_trained_part_is_all_it_needs(make(), make(), images)
        its_choices_survive_a_file(method)
        computes_on_one_device(make(), images)
        computes_in_bf16(make(), images, labels)


def starts_as_promised(model: AdaptedModel, backbone: Backbone, images: Tensor) -> None:
    tap = pooled(backbone.pool_named(model.method.pool))
    plain = Prefix(backbone, Need({tap}))(images, Need({tap}))[tap]
    with torch.no_grad():
        adapted = vector(model, images)
    expected = (len(images), backbone.num_features)
    assert adapted.shape == expected, f"pooled features are {expected} as the backbone's, but came as {adapted.shape}"
    if model.method.starts_as_identity:
        assert torch.equal(adapted, plain), (
            f"before training features are exactly the backbone's, but differ by {(adapted - plain).abs().max():.2g}; "
            f"a method that starts otherwise says so: starts_as_identity: ClassVar[bool] = False"
        )


def vector(model: AdaptedModel, images: Tensor) -> Tensor:
    """What the head is given of each image."""
    readout: Any = model.head.readout
    return readout(model.suffix(model.features(images))[readout.tap])


def begins(model: AdaptedModel, images: Tensor, labels: Tensor) -> None:
    if model.method.num_shown:
        start_by(model, list(zip(images, labels.tolist(), strict=True)))


def trains_what_it_says(model: AdaptedModel, images: Tensor, labels: Tensor) -> None:
    disturb(model)  # away from starts at zero, where some gradients are zero too
    model.train()
    model.loss(model(images), labels).backward()
    for name, p in model.named_parameters():
        if not p.requires_grad:
            assert p.grad is None, f"{name} is frozen, but got a gradient"
            continue
        assert p.grad is not None, f"{name} is trained, but got no gradient; is it used?"
        assert p.grad.isfinite().all(), f"{name} is trained, but its gradient is not finite"
        assert p.grad.any() or dead_by_nature(name), f"{name} is trained, but its gradient is zero everywhere"


def dead_by_nature(name: str) -> bool:
    """The bias of keys shifts all scores of a query alike, which softmax ignores; so has a bias before a norm."""
    return name.endswith(".bias")


def leaves_the_rest_alone(model: AdaptedModel, images: Tensor, labels: Tensor) -> None:
    def frozen() -> dict[str, Tensor]:
        trained = model.trained()  # where several layers hold one parameter, under its first name alone
        state = model.state_dict(keep_vars=True)
        return {n: t.clone() for n, t in state.items() if n not in trained and not t.requires_grad}

    before, seen = frozen(), tensors_of(model, images)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model.train()
        model.loss(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    touched = differing(before, frozen())
    assert not touched, f"training changes nothing that is frozen, but changed {touched}"
    assert all(map(torch.equal, seen, tensors_of(model, images))), "the prefix does not compute bit for bit what it did"
    if model.prefix is not None:
        assert not any(m.training for m in model.prefix.modules()), "train() woke the prefix"


def tensors_in(backbone: Backbone) -> dict[str, Tensor]:
    parts = backbone.named_parts(backbone.native_pool)
    return {f"{part}.{name}": t.clone() for part, m in parts for name, t in m.state_dict().items()}


def differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    return ", ".join(name for name, t in before.items() if not torch.equal(t, after[name]))


def tensors_of(model: AdaptedModel, images: Tensor) -> list[Tensor]:
    features = model.features(images)
    return [] if isinstance(features, Tensor) else features.tensors()


def features_stand_for_images(model: AdaptedModel, images: Tensor) -> None:
    disturb(model)
    features = model.features(images)
    kept = [] if isinstance(features, Tensor) else [t.clone() for t in features.tensors()]
    assert torch.equal(model(images), model(features)), "logits from features are not those from images"
    if not isinstance(features, Tensor):
        in_place = "did read or write change one in place?"
        assert all(map(torch.equal, kept, features.tensors())), f"running the suffix changed the features; {in_place}"
        assert not any(t.requires_grad for t in features.tensors()), f"features have a graph; {in_place}"


def its_trained_part_is_all_it_needs(model: AdaptedModel, other: AdaptedModel, images: Tensor) -> None:
    disturb(model)
    other.load_trained(model.trained())
    assert torch.equal(model(images), other(images)), (
        "the trained part does not carry a model over to another backbone copy"
    )


def its_choices_survive_a_file(method: Method) -> None:
    """As JSON, which is how a saved model keeps them."""
    try:
        again = from_saved(type(method), json.loads(json.dumps(asdict(method))))
    except TypeError as e:
        raise AssertionError(f"choices are saved as JSON, but {e}; use numbers, words, tuples and data classes") from e
    assert again == method, f"choices come back from a file as they were, but {method} became {again}"


def computes_on_one_device(model: AdaptedModel, images: Tensor) -> None:
    """Without values, on a GPU that is only pretended: tensors that a method makes elsewhere are found without one."""
    try:
        with FakeTensorMode():
            with torch.device("cuda"):
                there = rebuild(model, empty)
            logits = there(torch.empty(images.shape, device="cuda"))
    except (RuntimeError, AssertionError) as e:
        if "NVIDIA" in str(e) or "compiled with CUDA" in str(e):  # an operation that cannot be pretended
            return warnings.warn(f"not checked on a GPU: {str(e).splitlines()[0]}", stacklevel=3)
        raise AssertionError(
            f"images on a GPU do not get through; every tensor has to be a registered parameter or buffer (in a list: "
            f"nn.ModuleList, nn.ParameterList) or be made on the device of what came in (device=z.device): {e}"
        ) from e
    assert logits.is_cuda, "images on a GPU have their logits elsewhere"


def computes_in_bf16(model: AdaptedModel, images: Tensor, labels: Tensor) -> None:
    for held in (model, copy.deepcopy(model).hold(torch.bfloat16)):
        disturb(held.train())
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = held.loss(held(images), labels)
        loss.backward()
        assert loss.isfinite(), "the loss of a step in bf16 is not finite"


@torch.no_grad()
def disturb(model: AdaptedModel) -> None:
    """Move every trained parameter a little."""
    for p in model.parameters():
        if p.requires_grad:
            p.add_(torch.randn_like(p), alpha=0.02)
