"""The baselines that work inside blocks: counts, definitions, what they keep, what they refuse."""

from dataclasses import dataclass

import pytest
import timm
import torch
from conftest import tiny_backbone
from safetensors.torch import load_file
from torch.nn import functional as F

import sidetune
from sidetune.contract import disturb
from sidetune.errors import CannotMerge
from sidetune.measure.parameters import count
from sidetune.methods import ARC, METHODS, RLRR, SSF, Adaptation, Adapter, AdaptFormer, FacT, Method, ZeroAdapter
from sidetune.methods.layers import remade_linear
from sidetune.methods.rlrr import rescaled
from sidetune.recipe import Recipe
from sidetune.saving import WEIGHTS
from sidetune.seam.suffix import IMAGES
from sidetune.seam.taps import block_output
from sidetune.train.step import backward, save_memory

SMALL = {"adapter": {}, "adapter-vpt": {}, "adaptformer": {}, "ssf": {}, "rlrr": {}} | dict.fromkeys(
    ("fact-tt", "fact-tk", "arc"), {"rank": 4}
)
SHARING = ("fact-tt", "fact-tk", "arc")


def on_meta(name):
    with torch.device("meta"):
        return sidetune.open_backbone(timm.create_model(name, num_classes=0))


@pytest.fixture(scope="module")
def vit_b():
    return on_meta("vit_base_patch16_224")


@pytest.mark.parametrize(
    ("method", "trainable", "units", "seam"),
    [
        (METHODS["adapter"], 156_768, 12, 0),
        (METHODS["adaptformer"], 156_768, 12, 0),
        (METHODS["adapter-vpt"], 12 * (2 * 768 * 96 + 96 + 768), 12, 0),
        (METHODS["ssf"], 205_824, 148, IMAGES),
        (METHODS["fact-tt"], 61_440, 144, 0),
        (FacT(rank=8), 21_504, 144, 0),
        (METHODS["fact-tk"], 86_528, 144, 0),
        (FacT(form="tk", rank=16), 30_976, 144, 0),
        (METHODS["arc"], 96_432, 24, 0),
        (METHODS["rlrr"], 288_768, 74, IMAGES),
    ],
)
def test_parameters_on_vit_b_are_the_papers(vit_b, method, trainable, units, seam):
    model = sidetune.adapt(vit_b, method, num_classes=10)
    counted = count(model)
    assert (counted.trainable, counted.units, model.suffix.seam, model.frozen_depth) == (trainable, units, seam, 0)


@pytest.mark.parametrize(
    ("network", "method", "millions"),
    [
        ("convnext_base", "adapter", 0.31),  # the DTL papers' table on ConvNeXt-B
        ("swin_base_patch4_window7_224", "fact-tt", 0.14),  # and on Swin-B
    ],
)
def test_parameters_on_staged_networks_are_the_papers_within_their_rounding(network, method, millions):
    assert round(count(sidetune.adapt(on_meta(network), method, num_classes=10)).trainable / 1e6, 2) == millions


def block_of(model, number="1"):
    """A block of the suffix, its pieces to be called one by one."""
    disturb(model)
    return model.eval().suffix.blocks[number]


@pytest.fixture
def tokens():
    return torch.randn(2, 17, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("method", "act"), [(Adapter(), lambda h: h * torch.sigmoid(1.702 * h)), (ZeroAdapter(), F.gelu)]
)
def test_an_adapter_stands_behind_the_mlp_and_has_a_residual_of_its_own(vit, tokens, method, act):
    block, plain = block_of(sidetune.adapt(vit, method, num_classes=3)), vit.blocks[1]
    down, up = block.mlp.adapter.down, block.mlp.adapter.up
    x = tokens + plain.attn(plain.norm1(tokens))
    y = plain.mlp(plain.norm2(x))
    y = y + act(y @ down.weight.T + down.bias) @ up.weight.T + up.bias
    assert torch.allclose(block(tokens), x + y, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin"])
def test_adaptformer_reads_the_attentions_output_without_norm_and_layer_scale(kind):
    backbone = tiny_backbone(kind)
    block, plain = block_of(sidetune.adapt(backbone, "adaptformer", num_classes=3)), backbone.blocks[1]
    z = torch.randn(2, *backbone.input_shapes[1])
    down, up = block.norm2.adapter.down, block.norm2.adapter.up
    added = 0.1 * (F.relu(attended(plain, z) @ down.weight.T + down.bias) @ up.weight.T + up.bias)
    assert torch.allclose(block(z), plain(z) + added, atol=1e-5)


def attended(block, z):
    """The output of a plain block's attention residual, seen where its second norm reads it."""
    seen = []
    handle = block.norm2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    block(z)
    handle.remove()
    return seen[0].view_as(z)


def test_ssf_scales_and_shifts_every_output_from_the_patches_to_the_final_norm(vit):
    model = sidetune.adapt(vit, "ssf", num_classes=3)
    disturb(model)
    wrapped = [n.removesuffix(".scale") for n, _ in model.named_parameters() if n.endswith(".scale")]
    in_block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    blocks = [f"suffix.blocks.{i}.{name}" for i in range(1, 5) for name in in_block]
    assert sorted(wrapped) == sorted(["suffix.stem.patch_embed.proj", *blocks, "suffix.pool.norm"])
    for name in ("stem.patch_embed.proj", "blocks.2.attn.qkv", "blocks.2.norm1", "pool.norm"):
        layer = model.suffix.get_submodule(name)
        x = torch.randn(2, 3, 32, 32) if "stem" in name else torch.randn(2, 5, 48)
        spread = (-1, 1, 1) if "stem" in name else (-1,)
        expected = layer.base(x) * layer.scale.view(spread) + layer.shift.view(spread)
        assert torch.allclose(layer(x), expected, atol=1e-5), name


def test_ssf_starts_near_one_and_zero(vit_b, vit):
    parameters = dict(sidetune.adapt(vit, "ssf", num_classes=3).named_parameters())
    scales = torch.cat([p for n, p in parameters.items() if n.endswith(".scale")])
    shifts = torch.cat([p for n, p in parameters.items() if n.endswith(".shift")])
    assert scales.mean().item() == pytest.approx(1, abs=3e-3) and scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert shifts.mean().item() == pytest.approx(0, abs=3e-3) and shifts.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_facts_update_is_the_decomposed_tensor(vit, form):
    block = block_of(sidetune.adapt(vit, FacT(form=form, rank=4, scale=3.0), num_classes=3), "2")
    u, v = block.mlp.fc1.factors.u, block.mlp.fc1.factors.v
    assert block.attn.qkv.factors is block.mlp.fc2.factors

    def core(layer, k):
        """T of the k-th d x d block of a layer, r -> r."""
        if form == "tt":
            return layer.t[k]
        first = {"attn.qkv": 12, "attn.proj": 15, "mlp.fc1": 16, "mlp.fc2": 20}  # 12 in the block before
        return torch.einsum("abj,j->ab", layer.factors.core, layer.factors.p[:, first[name] + k])

    for name, blocks, axis in (("attn.qkv", 3, 0), ("attn.proj", 1, 0), ("mlp.fc1", 4, 0), ("mlp.fc2", 4, 1)):
        layer = block.get_submodule(name)
        delta = torch.cat([v @ core(layer, k) @ u for k in range(blocks)], dim=axis)
        x = torch.randn(2, 5, layer.base.in_features)
        assert torch.allclose(layer(x), layer.base(x) + 3.0 * x @ delta.T, atol=1e-4), name


def test_arc_recomposes_one_projection_behind_the_norms(vit, tokens):
    model = sidetune.adapt(vit, ARC(rank=4), num_classes=3)
    block, other = block_of(model), model.suffix.blocks["3"]
    assert block.attn.qkv.projection is other.attn.qkv.projection
    assert block.attn.qkv.projection is not block.mlp.fc1.projection
    plain = vit.blocks[1]

    def recomposed(x, layer):
        d = layer.projection.down
        return x + (x @ d.T * layer.scale) @ d + layer.shift

    x = tokens + plain.attn(recomposed(plain.norm1(tokens), block.attn.qkv))
    expected = x + plain.mlp(recomposed(plain.norm2(x), block.mlp.fc1))
    assert torch.allclose(block(tokens), expected, atol=1e-5)


def test_arc_starts_as_published(vit):
    model = sidetune.adapt(vit, ARC(rank=4), num_classes=3)
    for block in model.suffix.blocks.values():
        assert not block.attn.qkv.scale.any() and block.mlp.fc1.scale.all()
        assert not block.attn.qkv.shift.any() and not block.mlp.fc1.shift.any()


def test_rlrr_rescales_q_k_and_v_apart(vit):
    block = block_of(sidetune.adapt(vit, "rlrr", num_classes=3))
    layer = block.attn.qkv
    x = torch.randn(2, 5, 48)
    parts = []
    for k, (w, b) in enumerate(zip(layer.base.weight.chunk(3), layer.base.bias.chunk(3), strict=True)):
        own = slice(48 * k, 48 * (k + 1))
        parts.append(x @ (w + w * (layer.left[own] @ layer.right[k : k + 1])).T + b + layer.shift[own])
    assert torch.allclose(layer(x), torch.cat(parts, dim=-1), atol=1e-5)


@pytest.mark.parametrize("maps", [False, True])
def test_rlrr_keeps_no_weight_it_made_and_has_the_gradients_of_plain_pytorch(maps):
    layer = torch.nn.Conv2d(6, 9, 1) if maps else torch.nn.Linear(6, 9)
    layer = layer.requires_grad_(False).double()
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 5, 3) if maps else (2, 5, 6), (9, 1), (3, 6), (9,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    x, left, right, bias = inputs = [t.requires_grad_() for t in tensors]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = remade_linear(x, layer, bias, rescaled, left, right)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, layer.weight, left, right)}
    target = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    made = torch.autograd.grad((out * target).sum(), inputs)
    weight = rescaled(layer.weight.flatten(1), left, right)
    plain = F.conv2d(x, weight[:, :, None, None], bias) if maps else F.linear(x, weight, bias)
    for own, expected in zip(made, torch.autograd.grad((plain * target).sum(), inputs), strict=True):
        assert torch.allclose(own, expected, atol=1e-12)


@pytest.mark.parametrize("name", SHARING)
def test_what_blocks_share_is_trained_and_saved_once(vit, name, tmp_path):
    model = sidetune.adapt(vit, name, num_classes=3, **SMALL[name])
    disturb(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert len(model.trained()) == len(parameters)
    model.save_pretrained(tmp_path)
    assert sum(t.numel() for t in load_file(tmp_path / WEIGHTS).values()) == sum(p.numel() for p in parameters)
    loaded = sidetune.load(tmp_path, backbone=vit)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert loaded.method == model.method


@pytest.mark.parametrize("name", SHARING)
def test_stages_share_apart(name):
    model = sidetune.adapt(tiny_backbone("swin"), name, num_classes=3, **SMALL[name])
    held = "projection" if name == "arc" else "factors"
    shared = [getattr(model.suffix.blocks[i].mlp.fc1, held) for i in "12345"]
    assert shared[2] is shared[3] and len({id(s) for s in shared}) == 4  # stages of 1, 1, 2, 1 blocks


@pytest.mark.parametrize("kind", ["vit", "swin", "convnext"])
@pytest.mark.parametrize("name", SMALL)
def test_held_in_bf16_they_compute_nearly_the_same_and_train_in_full_precision(name, kind):
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, name, num_classes=3, **SMALL[name])
    images = torch.randn(2, 3, *backbone.card.image_size)
    expected = model(images).detach()
    model.hold(torch.bfloat16)
    logits = model(images)
    assert (logits - expected).abs().max() <= 0.05 * expected.abs().max() + 0.01
    model.task.loss(logits, torch.tensor([0, 1])).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32 and parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("choices", [{"micro_batch": 3}, {"checkpoint": True}])
@pytest.mark.parametrize("name", SMALL)
def test_saving_memory_leaves_the_gradient_of_the_whole_batch(vit, name, choices):
    images, labels = torch.randn(7, 3, 32, 32), torch.arange(7) % 3

    def gradients(**choices):
        model = sidetune.adapt(vit, name, num_classes=3, **SMALL[name])
        torch.manual_seed(0)
        disturb(model)
        save_memory(model, Recipe(**choices))
        backward(model, images, labels, micro_batch=choices.get("micro_batch"))  # in eval mode: dropout sleeps
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    whole, saved = gradients(), gradients(**choices)
    largest = max(g.abs().max() for g in whole.values())
    for parameter_name, gradient in whole.items():
        assert (gradient - saved[parameter_name]).abs().max() <= 1e-6 * largest, parameter_name


@pytest.mark.parametrize(
    ("name", "choices"),
    [*((name, SMALL[name]) for name in ("adaptformer", "fact-tt", "fact-tk", "arc")), ("lora", {"dropout": 0.1})],
)
def test_dropout_wakes_in_training_alone(vit, name, choices):
    model = sidetune.adapt(vit, name, num_classes=3, **choices)
    disturb(model)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", SMALL)
def test_images_of_odd_sizes_pass(name):
    backbone = sidetune.open_backbone(timm.create_model("vit_tiny_patch16_224", depth=2), image_size=(48, 80))
    model = sidetune.adapt(backbone, name, num_classes=3)
    assert model(torch.randn(1, 3, 48, 80)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "why"), [("adapter", "an activation"), ("adapter-vpt", "an activation"), ("adaptformer", "a ReLU")]
)
def test_what_is_not_linear_cannot_be_folded_and_says_so(vit, name, why):
    with pytest.raises(CannotMerge, match=f"not linear \\({why} stands between"):
        sidetune.adapt(vit, name, num_classes=3).merge()


def test_a_shift_without_a_bias_to_hold_it_cannot_be_folded():
    network = timm.create_model("vit_tiny_patch16_224", depth=1, qkv_bias=False, num_classes=0)
    model = sidetune.adapt(sidetune.open_backbone(network, image_size=32), "ssf", num_classes=3)
    with pytest.raises(CannotMerge, match="blocks.1.attn.qkv.bias"):
        model.merge(into=timm.create_model("vit_tiny_patch16_224", depth=1, qkv_bias=False, img_size=32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adapter(hidden=49), "hidden is 49, above the width of the backbone, 48"),
        (lambda: AdaptFormer(hidden=49), "hidden is 49, above the width of the backbone, 48"),
        (lambda: Adapter(hidden=0), "hidden must be at least 1, got 0"),
        (lambda: ZeroAdapter(reduction=49), "reduction is 49, above the width of the backbone, 48"),
        (lambda: FacT(rank=49), "rank is 49, above the width of the backbone, 48"),
        (lambda: FacT(form="cp"), "form must be one of tt, tk, got 'cp'"),
        (lambda: ARC(rank=49), "rank is 49, above the width of the backbone, 48"),
        (lambda: SSF(pool="max"), "pool 'max' does not exist here"),
        (lambda: RLRR(pool="max"), "pool 'max' does not exist here"),
    ],
)
def test_choices_that_make_no_sense_are_refused(vit, make, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, make(), num_classes=3)


def test_blocks_of_another_build_are_refused_with_what_is_missing():
    network = timm.create_model("vit_small_patch16_36x1_224", depth=1, embed_dim=48, num_heads=3, mlp_ratio=2.5)
    backbone = sidetune.open_backbone(network, image_size=32)
    with pytest.raises(ValueError, match="mlp.fc1 of block 1 is 120 x 48, which blocks of 48 x 48 do not fill"):
        sidetune.adapt(backbone, FacT(rank=4), num_classes=3)
    after = timm.models.vision_transformer.VisionTransformer(
        img_size=32, embed_dim=48, depth=1, num_heads=3, block_fn=timm.models.vision_transformer.ResPostBlock
    )
    with pytest.raises(ValueError, match="ResPostBlock; AdaptFormer needs a norm in front of an MLP"):
        sidetune.adapt(sidetune.open_backbone(after), "adaptformer", num_classes=3)


@dataclass(frozen=True, kw_only=True)
class Doubling(Method):
    """A method that wraps one layer of one part."""

    part: str | int
    layer: str = "norm"

    def adapt(self, backbone):
        return Adaptation(
            wraps={self.part: {self.layer: lambda layer: torch.nn.Sequential(layer, torch.nn.Identity())}}
        )


def test_the_frozen_depth_follows_from_wraps_outside_blocks(vit):
    at_the_end = sidetune.adapt(vit, Doubling(part="pool"), num_classes=3)
    assert at_the_end.frozen_depth == 4 and block_output(4) in at_the_end.need
    at_the_start = sidetune.adapt(vit, Doubling(part="stem", layer="patch_embed.proj"), num_classes=3)
    assert at_the_start.suffix.seam == IMAGES and at_the_start.prefix is None
    swin = tiny_backbone("swin")
    assert sidetune.adapt(swin, Doubling(part="transitions.3"), num_classes=3).frozen_depth == 2
    for part in ("blocks", 9, "transitions.1"):
        with pytest.raises(ValueError, match=f"wraps names .*{part}.*, which this backbone does not have"):
            sidetune.adapt(swin, Doubling(part=part), num_classes=3)
