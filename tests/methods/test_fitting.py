"""Slips in a method of one's own are named where they are made."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import timm
import torch
from conftest import tiny_backbone, tiny_network
from torch import nn

import sidetune
from sidetune.contract import check_method
from sidetune.errors import CannotMerge
from sidetune.methods import METHODS
from sidetune.methods.fitting import check_is_method
from sidetune.methods.lora import LoRA as Ours
from sidetune.recipe import Recipe
from sidetune.saving import method_from


class Side(sidetune.SideNetwork):
    def __init__(self, reads=(), writes=(), write=None):
        super().__init__()
        self.reads, self.writes, self.given = reads, writes, write

    def write(self, block, z, state):
        return self.given(z)


class Gain(nn.Module):
    """A gain in float32, as one writes it without thinking of types."""

    def __init__(self, layer, start=1.0):
        super().__init__()
        self.layer, self.gain = layer, nn.Parameter(torch.full((48,), start))

    def forward(self, x):
        return self.layer(x) * self.gain


@dataclass(frozen=True, kw_only=True)
class Mine(sidetune.Method):
    """Adapts by a function that a test gives."""

    starts_as_identity: ClassVar[bool] = False
    give: ClassVar[object] = None

    def adapt(self, backbone):
        return type(self).give(backbone)


def mine(give):
    @dataclass(frozen=True, kw_only=True)
    class Own(Mine):
        pass

    Own.give = staticmethod(give)
    return Own()


def adapted(vit, give):
    return sidetune.adapt(vit, mine(give), num_classes=3)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda b: None, "Own.adapt must return a sidetune.Adaptation, got NoneType"),
        (lambda b: Side(), "got Side"),
        (lambda b: sidetune.Adaptation(side=Side), "must be a sidetune.SideNetwork, got the class Side"),
        (lambda b: sidetune.Adaptation(side=nn.Linear(1, 1)), "got Linear"),
        (lambda b: sidetune.Adaptation(side=Side(reads=(0, 2))), r"reads blocks \[0\]; blocks are 1..4$"),
        (lambda b: sidetune.Adaptation(side=Side(writes=(4, 5))), r"writes to blocks \[5\]; .* 0..4; 0 is the stem"),
        (lambda b: sidetune.Adaptation(side=Side(writes=(-1,))), r"writes to blocks \[-1\]"),
        (lambda b: sidetune.Adaptation(wraps={"blocks.4": {"attn": Gain}}), r"has 'stem', 1, 2, 3, 4, 'pool'"),
        (lambda b: sidetune.Adaptation(wraps={5: {"attn": Gain}}), r"wraps names \[5\]"),
        (lambda b: sidetune.Adaptation(wraps={2: {"attn.prj": Gain}}), "'attn.prj', but this Block has .*attn.proj"),
        (lambda b: sidetune.Adaptation(wraps={2: {("norm1", "atn"): Gain}}), "'atn', but this Block has"),
        (lambda b: sidetune.Adaptation(wraps={2: {"attn": nn.Linear(1, 1)}}), "function layer -> module, got Linear"),
        (lambda b: sidetune.Adaptation(trains=lambda n: "nrom" in n), r"matches no parameter; .*blocks.1.norm1.weight"),
    ],
)
def test_what_does_not_fit_is_named(vit, give, message):
    with pytest.raises(ValueError, match=message):
        adapted(vit, give)


def test_a_wrap_that_does_not_suit_the_family_says_where_families_are_refused():
    with pytest.raises(
        ValueError, match="'attn.qkv', but this BasicBlock has .*; a method that does not suit a family"
    ):
        adapted(tiny_backbone("resnet"), lambda b: sidetune.Adaptation(wraps={1: {"attn.qkv": Gain}}))


def test_what_is_no_method_is_named(vit):
    class NoDataclass(sidetune.Method):
        def adapt(self, backbone):
            return sidetune.Adaptation()

    with pytest.raises(ValueError, match=r"NoDataclass is no dataclass; put @dataclass\(frozen=True, kw_only=True\)"):
        sidetune.adapt(vit, NoDataclass(), num_classes=3)
    with pytest.raises(ValueError, match=r"Mine is a class; a method is an instance of it: Mine\(\)"):
        check_is_method(Mine)
    with pytest.raises(ValueError, match=r"an instance of a sidetune.Method, got Gain"):
        check_is_method(Gain(nn.Identity()))


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda z: None, "NoneType"),
        (lambda z: z[..., :5], r"\(2, 17, 5\)"),
        (lambda z: z[:1], r"\(1, 17, 48\)"),
        (lambda z: z.mean(1), r"\(2, 48\)"),
    ],
)
def test_what_is_written_has_the_batch_and_width_it_had(vit, write, what):
    model = adapted(vit, lambda b: sidetune.Adaptation(side=Side(writes=(4,), write=write)))
    with pytest.raises(ValueError, match=rf"Side.write\(4\) gave {what} in place of \(2, 17, 48\)"):
        model(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(
    "give",
    [
        lambda b: sidetune.Adaptation(wraps={2: {"attn.proj": Gain}}),
        lambda b: sidetune.Adaptation(
            side=Side(writes=(2,), write=lambda z: z * torch.ones(48)),
            trains=lambda name: name.startswith("blocks.3.attn.qkv"),
        ),
    ],
)
def test_what_comes_in_float32_passes_held_blocks(vit, give, samples):
    model = adapted(vit, give)
    sidetune.fit(model, samples, recipe=Recipe(epochs=1, batch_size=8, precision="bf16", lr=1e-3))
    assert model.dtype == torch.bfloat16
    exact = adapted(vit, give)
    exact.load_trained(model.trained())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(images).float(), exact(images), atol=0.05)


def test_training_a_batchnorm_leaves_the_callers_network_alone(samples):
    network = timm.create_model("resnet18", num_classes=0)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    method = mine(lambda b: sidetune.Adaptation(trains=lambda n: "bn" in n and n.endswith(("weight", "bias"))))
    backbone = sidetune.open_backbone(network, image_size=32)
    model = sidetune.adapt(backbone, method, num_classes=3)
    sidetune.fit(model, samples, recipe=Recipe(epochs=1, batch_size=8, precision="fp32"))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    moved = [name for name in model.trained() if name.endswith("running_mean")]
    assert moved and any(not torch.equal(model.state_dict()[n], torch.zeros_like(model.state_dict()[n])) for n in moved)


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


def shifted(layer):
    made = Shifted(layer.in_features, layer.out_features)
    made.load_state_dict(layer.state_dict())
    return made.requires_grad_(False)


@pytest.mark.parametrize("wraps", [{"mlp.act": lambda layer: nn.Tanh()}, {"mlp.fc1": shifted}])
def test_what_weights_do_not_tell_cannot_be_folded(wraps):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
    method = mine(lambda b: sidetune.Adaptation(wraps={i: wraps for i in b.blocks}))
    model = sidetune.adapt(network, method, num_classes=3, image_size=32)
    into = timm.create_model("vit_tiny_patch16_224", depth=2)
    with pytest.raises(CannotMerge, match=r"gives other logits \(off by [\d.]+\)"):
        model.train().merge(into=into)
    assert model.training and model.suffix.blocks.training


def test_a_model_held_in_bf16_folds(vit):
    model = sidetune.adapt(vit, "lora", num_classes=3).hold(torch.bfloat16)
    assert model.merge(into=tiny_network("vit", seed=3))(torch.randn(1, 3, 32, 32)).shape == (1, 3)


def test_a_head_of_zeros_folds(vit):
    model = sidetune.adapt(vit, "lora", num_classes=3, head_start="zero")
    assert not model.merge(into=tiny_network("vit", seed=3))(torch.randn(1, 3, 32, 32)).any()


def test_methods_of_one_name_are_told_apart_by_their_module(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class LoRA(Mine):
        width: int = 2

    monkeypatch.setitem(METHODS, "my-lora", LoRA())
    ours = {"type": "LoRA", "module": "sidetune.methods.lora", "rank": 4}
    assert method_from(ours) == Ours(rank=4)
    assert method_from({"type": "LoRA", "module": __name__, "width": 3}) == LoRA(width=3)
    monkeypatch.delitem(METHODS, "my-lora")
    with pytest.raises(ValueError, match=f"LoRA of the module {__name__} is not known; import .*--import {__name__}"):
        method_from({"type": "LoRA", "module": __name__, "width": 3})
    assert method_from({"type": "LoRA", "rank": 4}) == Ours(rank=4)


@dataclass(frozen=True, kw_only=True)
class Keeps(Mine):
    table: dict = None
    names: list[str] = None
    sizes: tuple[int, ...] = ()

    def adapt(self, backbone):
        return sidetune.Adaptation(wraps={1: {"attn.proj": Gain}})


def test_mappings_and_lists_come_back_from_a_file(vit, tmp_path, monkeypatch):
    method = Keeps(table={"a": 1}, names=["b"], sizes=(1, 2))
    monkeypatch.setitem(METHODS, "keeps", method)
    sidetune.adapt(vit, method, num_classes=3).save_pretrained(tmp_path)
    assert sidetune.load(tmp_path, backbone=vit).method == method
    assert f"import {__name__}  # puts" in (tmp_path / "README.md").read_text()


class InPlace(Side):
    def read(self, block, x, state):
        x.add_(1)
        return state

    def write(self, block, z, state):
        return z


class Hidden(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.gains = layer, [nn.Parameter(torch.ones(48))]

    def forward(self, x):
        return self.layer(x) * self.gains[0]


def changes_weights(layer):
    with torch.no_grad():
        layer.weight.add_(1)
    return Gain(layer)


@dataclass(frozen=True, kw_only=True)
class Activation(Mine):
    act: type = nn.GELU

    def adapt(self, backbone):
        return sidetune.Adaptation(wraps={1: {"attn.proj": Gain}})


@dataclass(frozen=True, kw_only=True)
class Looks(Mine):
    num_shown: ClassVar[int] = 3

    def adapt(self, backbone):
        return sidetune.Adaptation(wraps={1: {"attn.proj": Gain}})


@dataclass(frozen=True, kw_only=True)
class Refuses(Looks):
    def refuses(self, family):
        return True


@dataclass(frozen=True, kw_only=True)
class Promises(Mine):
    starts_as_identity: ClassVar[bool] = True

    def adapt(self, backbone):
        return sidetune.Adaptation(wraps={1: {"attn.proj": lambda layer: Gain(layer, 2.0)}})


class Idle(Gain):
    def forward(self, x):
        return self.layer(x)


def wraps(make):
    return mine(lambda b: sidetune.Adaptation(wraps={2: {"attn.proj": make}}))


IN_PLACE = mine(lambda b: sidetune.Adaptation(side=InPlace(reads=(4,), writes=(4,))))


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (IN_PLACE, AssertionError, "changed the features; did read"),
        (wraps(Hidden), AssertionError, "nn.ParameterList"),
        (wraps(Idle), AssertionError, "got no gradient; is it used"),
        (wraps(changes_weights), AssertionError, "blocks.2.attn.proj.weight"),
        (Activation(), AssertionError, "choices are saved as JSON"),
        (Looks(), NotImplementedError, "Looks wants 3 images"),
        (Refuses(), AssertionError, "refuses gives the reason or None, but gave True"),
        (Promises(), AssertionError, r"differ by .*; a method that starts otherwise says so"),
    ],
)
def test_the_contract_names_what_would_break_later(method, error, message):
    with pytest.raises(error, match=message):
        check_method(method, tiny_backbone("vit"))


def test_operations_that_cannot_be_pretended_are_told_and_pass(vit):
    class Recurrent(Side):
        def __init__(self):
            super().__init__(reads=(4,), writes=(4,))
            self.cell = nn.GRUCell(48, 48)

        def read(self, block, x, state):
            return self.cell(x[:, 0], x[:, 1])

        def write(self, block, z, state):
            return z + state[:, None]

    with pytest.warns(UserWarning, match="not checked on a GPU"):
        check_method(mine(lambda b: sidetune.Adaptation(side=Recurrent())), vit)
