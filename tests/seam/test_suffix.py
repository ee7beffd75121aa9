"""A tap at or before the frozen depth is the prefix's own, a later one the suffix's, after what is written there."""

import pytest
import timm
import torch
from conftest import TINY, taps, tiny_backbone, tiny_network
from torch import nn

import sidetune
from sidetune.methods import adaptation, find_method
from sidetune.seam.adaptation import Adaptation
from sidetune.seam.features import Features
from sidetune.seam.prefix import Prefix
from sidetune.seam.suffix import IMAGES, Suffix, seam
from sidetune.seam.taps import Need, block_input, block_output, pooled


def both(backbone, method, wanted, disturb=True):
    """What the suffix gives of these taps, what the plain backbone has, and the suffix."""
    torch.manual_seed(0)
    suffix = Suffix(backbone, adaptation(find_method(method), backbone), wanted)
    if disturb:
        for p in suffix.parameters():
            if p.requires_grad:
                p.data.add_(torch.randn_like(p), alpha=0.1)
    images = torch.randn(2, 3, *backbone.card.image_size)
    plain = Prefix(backbone, wanted)(images, wanted)
    given = images if suffix.seam < 0 else Prefix(backbone, suffix.need)(images, suffix.need)
    with torch.no_grad():
        return suffix(given), plain, suffix


def all_taps(backbone):
    numbers = range(1, backbone.num_blocks + 1)
    return Need([*map(block_input, numbers), *map(block_output, (0, *numbers)), pooled(backbone.native_pool)])


@pytest.mark.parametrize("method", ["linear", "dtl+", "lora", "bitfit", "full", "partial", "dtl+*"])
@pytest.mark.parametrize("kind", ["vit", "swin", "convnext"])
def test_taps_up_to_the_frozen_depth_are_the_backbones_and_later_ones_are_not(kind, method):
    backbone = tiny_backbone(kind)
    found, plain, suffix = both(backbone, method, all_taps(backbone))
    assert found.taps.keys() == plain.taps.keys()
    same = {tap for tap in found.taps if torch.equal(found[tap], plain[tap])}
    exact = found.taps.keys() - suffix.own
    assert exact <= same and same - exact <= {block_input(max(suffix.seam, 0) + 1)}
    written = suffix.seam in suffix.side.writes
    assert sorted(tap.at for tap in exact if tap.kind == "output") == list(range(suffix.seam + 1 - written))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_before_training_all_taps_are_the_backbones(kind):
    backbone = tiny_backbone(kind)
    found, plain, _ = both(backbone, "dtl+", all_taps(backbone), disturb=False)
    assert all(torch.equal(found[tap], plain[tap]) for tap in found.taps)


def test_what_is_wanted_is_what_the_whole_chain_gives(vit):
    """Levels, as dense tasks read them, are the same whichever of them are asked for together."""
    everything, _, _ = both(vit, "dtl+", all_taps(vit))
    for wanted in ("output.4", "output.1 output.3", "input.4 pool.mean", "output.2 output.4 pool.token"):
        found, _, suffix = both(vit, "dtl+", taps(wanted))
        assert all(torch.equal(found[tap], everything[tap]) for tap in taps(wanted) if tap in everything)
        assert suffix.last == max([tap.at if tap.kind != "pool" else 4 for tap in suffix.own])
        assert [int(i) for i in suffix.blocks] == list(range(suffix.seam + 1, suffix.last + 1)), "no block in vain"


def test_the_prefix_gives_what_is_read_and_no_more(vit):
    assert Suffix(vit, adaptation(find_method("linear"), vit), taps("pool.mean")).need == taps("pool.mean")
    assert Suffix(vit, adaptation(find_method("linear"), vit), taps("output.1 output.4")).need == taps(
        "output.1 output.4"
    )
    dtl = adaptation(find_method("dtl+"), vit)  # first writes after block 3
    assert Suffix(vit, dtl, taps("output.1 output.4")).need == taps("output.1 output.3 input.1 input.2 input.3")
    assert Suffix(vit, dtl, taps("output.2")).need == taps("output.2"), "nothing adapted is wanted"
    mist = adaptation(find_method("mist", k=2), vit)
    assert Suffix(vit, mist, taps("output.4")).need == taps("sum.2"), "a sum stands for the last block's output"


def test_sizes_of_padded_images_pass_through(vit):
    suffix = Suffix(vit, adaptation(find_method("dtl+"), vit), taps("output.1 output.4"))
    sizes = torch.tensor([[32, 24], [16, 32]])
    features = Prefix(vit, suffix.need)(torch.randn(2, 3, 32, 32), suffix.need)
    assert torch.equal(suffix(Features(features.taps, sizes)).sizes, sizes)
    assert torch.equal(Features(features.taps, sizes).map(lambda t: t[:1]).sizes, sizes[:1])


def test_what_cannot_be_given_is_refused(vit):
    lora = adaptation(find_method("lora"), vit)
    with pytest.raises(ValueError, match="one pooling can be read at a time, not mean and token"):
        Suffix(vit, lora, taps("pool.mean pool.token"))
    with pytest.raises(ValueError, match=r"taps up to \[2\] are changed by the method, and sums are of frozen ones"):
        Suffix(vit, lora, taps("sum.0 sum.2"))


def test_a_source_without_a_write_is_refused(vit):
    class Lost(sidetune.SideNetwork):
        source = block_output(2)

    class Slip(type(find_method("linear"))):
        def adapt(self, backbone):
            return sidetune.Adaptation(side=Lost())

    with pytest.raises(ValueError, match="the side network of Slip has a source, but writes nothing"):
        adaptation(Slip(), vit)


class Beside(sidetune.SideNetwork):
    """Writes after the blocks it is given, by a function."""

    def __init__(self, *writes, give=lambda z: z):
        super().__init__()
        self.writes, self.give = writes, give

    def write(self, block, z, state):
        return self.give(z)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 5),
        ({"side": Beside(3)}, 3),
        ({"side": Beside(0, 4)}, 0),
        ({"side": Beside(5)}, 5),
        ({"wraps": {4: {"attn.qkv": nn.Identity}}}, 3),
        ({"wraps": {1: {"attn.qkv": nn.Identity}}, "side": Beside(2)}, 0),
        ({"wraps": {"stem": {"patch_embed": nn.Identity}}}, IMAGES),
        ({"wraps": {"transitions.3": {"reduction": nn.Identity}}}, 2),
        ({"wraps": {"pool": {"norm": nn.Identity}}, "side": Beside(5)}, 5),
        ({"trains": lambda name: name == "blocks.5.mlp.fc1.bias"}, 4),
        ({"trains": lambda name: name.startswith("transitions.2.")}, 1),
        ({"trains": lambda name: name.startswith("stem.")}, IMAGES),
        ({"trains": lambda name: name == "pool.norm.weight"}, 5),
    ],
)  # fmt: skip
def test_the_suffix_takes_over_where_something_is_first_touched(change, expected):
    backbone = tiny_backbone("swin")  # with transitions before blocks 2, 3 and 5
    assert seam(backbone, Adaptation(**change), "mean") == expected


def test_a_pooling_that_is_trained_is_no_tap_of_the_prefix(vit):
    trains = {"trains": lambda name: name.startswith("pool.")}
    suffix = Suffix(vit, Adaptation(**trains), taps("output.4 pool.mean"))
    assert suffix.need == taps("output.4") and suffix.own == taps("pool.mean")
    assert not suffix.blocks and suffix.pool is not None and all(p.requires_grad for p in suffix.pool.parameters())


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda z: z[:1], r"Beside.write\(2\) gave \(1, 17, 48\) in place of \(2, 17, 48\)"),
        (lambda z: z[..., :47], r"gave \(2, 17, 47\) in place"),
        (lambda z: z[:, 0], r"gave \(2, 48\) in place"),
        (lambda z: None, "gave NoneType in place"),
        (lambda z: (z, None), "gave tuple in place"),
    ],
)
def test_what_is_written_has_the_batch_and_the_width_that_were_given(vit, give, said):
    suffix = Suffix(vit, Adaptation(side=Beside(2, give=give)), taps("output.4"))
    with pytest.raises(ValueError, match=said):
        suffix(Features({block_output(2): torch.randn(2, 17, 48)}))


@pytest.mark.parametrize("kind", ["swin", "convnext"])
def test_places_may_be_added_or_taken_and_channels_not(kind):
    """Prompts make more tokens; which axis holds channels is the backbone's layout."""
    backbone = tiny_backbone(kind)
    z = torch.randn(2, *backbone.output_shapes[5])
    places, channels = (lambda z: z[:, :, :1], lambda z: z[..., :8]) if kind == "swin" else (
        lambda z: z[..., :0], lambda z: z[:, :8])  # fmt: skip
    suffix = Suffix(backbone, Adaptation(side=Beside(5, give=places)), taps("output.5"))
    assert suffix(Features({block_output(5): z}))[block_output(5)].shape == places(z).shape
    suffix = Suffix(backbone, Adaptation(side=Beside(5, give=channels)), taps("output.5"))
    with pytest.raises(ValueError, match=r"Beside.write\(5\) gave"):
        suffix(Features({block_output(5): z}))


@pytest.mark.parametrize("kind", TINY)
def test_every_residual_branch_of_every_block_is_dropped(kind):
    """At a rate of 1 a block adds nothing. Blocks that change shape have no way around their branch."""
    backbone = tiny_backbone(kind)
    num_blocks = backbone.num_blocks
    suffix = Suffix(backbone, adaptation(find_method("full"), backbone), taps("pool.mean"))
    for i in filter(backbone.keeps_shape, range(2, num_blocks + 1)):
        z = torch.randn(2, *backbone.input_shapes[i]).relu()  # as a ResNet's are
        block = suffix.blocks[str(i)]
        suffix.set_drop_path((num_blocks - 1) / (i - 1))
        suffix.train()
        assert torch.allclose(block(z), z, atol=1e-6)
        suffix.set_drop_path(0)
        once, again = block(z), block(z)
        assert torch.equal(once, again) and not torch.allclose(once, z, atol=1e-2)
        suffix.set_drop_path(1)
        suffix.eval()
        assert not torch.allclose(block(z), z, atol=1e-2), "nothing is dropped but in training"


@pytest.mark.parametrize("kind", TINY)
def test_rates_of_dropping_grow_by_the_linear_rule_from_zero_at_the_first_block(kind):
    backbone = tiny_backbone(kind)
    suffix = Suffix(backbone, adaptation(find_method("full"), backbone), taps("pool.mean"))
    suffix.set_drop_path(0.3)
    first = backbone.blocks[1]
    names = [name for name in ("drop_path", "drop_path1", "drop_path2") if hasattr(first, name)]
    for i, block in suffix.blocks.items():
        for name in names:
            rate = 0.3 * (int(i) - 1) / (backbone.num_blocks - 1)
            assert getattr(getattr(block, name), "drop_prob", 0) == pytest.approx(rate)
    assert type(getattr(suffix.blocks["1"], names[0])) is nn.Identity


@pytest.mark.parametrize(("depth", "rates"), [(1, [0]), (2, [0, 0.3])])
def test_the_last_of_few_blocks_has_the_whole_rate_and_an_only_one_none(depth, rates):
    name, changes = TINY["vit"]
    backbone = sidetune.open_backbone(timm.create_model(name, num_classes=0, **{**changes, "depth": depth}))
    suffix = Suffix(backbone, adaptation(find_method("full"), backbone), taps("pool.mean"))
    suffix.set_drop_path(0.3)
    assert [getattr(block.drop_path2, "drop_prob", 0) for block in suffix.blocks.values()] == rates


def test_a_suffix_is_made_asleep_and_computes_nothing_again_until_it_is_told(vit):
    suffix = Suffix(vit, adaptation(find_method("full"), vit), taps("output.4"))
    assert not any(module.training for module in suffix.modules())
    counts = runs_of(suffix)
    suffix(torch.randn(1, 3, 32, 32))[block_output(4)].sum().backward()
    assert set(counts.values()) == {1}


def test_blocks_computed_again_give_the_gradients_of_blocks_that_were_not(vit):
    """Of the first block too, whose input asks for none."""
    suffix = Suffix(vit, adaptation(find_method("lora"), vit), taps("output.4"))
    features = Prefix(vit, suffix.need)(torch.randn(2, 3, 32, 32), suffix.need)
    with torch.no_grad():
        for p in suffix.parameters():
            if p.requires_grad:
                p.normal_(std=0.1)
    gradients = []
    for suffix.num_recomputed in (0, 4):
        suffix.zero_grad()
        suffix(features)[block_output(4)].square().sum().backward()
        gradients.append({name: p.grad for name, p in suffix.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 4
    assert all(torch.allclose(gradient, gradients[1][name], rtol=1e-5) for name, gradient in gradients[0].items())


def test_blocks_that_gather_statistics_run_once_and_others_with_such_norms_twice():
    backbone = tiny_backbone("resnet")
    suffix = Suffix(backbone, adaptation(find_method("full"), backbone), taps("output.8"))
    suffix.num_recomputed, counts = 8, runs_of(suffix)
    suffix.train()
    suffix(torch.randn(2, 3, 32, 32))[block_output(8)].sum().backward()
    assert set(counts.values()) == {1}
    suffix.eval()
    suffix(torch.randn(2, 3, 32, 32))[block_output(8)].sum().backward()
    assert set(counts.values()) == {3}


def runs_of(suffix):
    """Counts how often each block runs."""
    counts = dict.fromkeys(suffix.blocks, 0)

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    for name, block in suffix.blocks.items():
        block.register_forward_pre_hook(count(name))  # computing again stops early, before hooks that come after
    return counts


@pytest.mark.parametrize(
    ("num_recomputed", "expected"), [(0, [1, 1, 1]), (1, [2, 1, 1]), (2, [2, 2, 1]), (9, [2, 2, 2])]
)
def test_as_many_of_the_first_blocks_are_computed_again_as_are_asked_for(vit, num_recomputed, expected):
    suffix = Suffix(vit, Adaptation(side=Beside(1, give=lambda z: z + 0)), taps("output.4"))
    counts = runs_of(suffix)
    suffix.num_recomputed = num_recomputed
    features = Features({block_output(1): torch.randn(2, 17, 48, requires_grad=True)})
    suffix(features)[block_output(4)].sum().backward()
    assert list(counts.values()) == expected
    with torch.no_grad():
        suffix(features)
    assert list(counts.values()) == [n + 1 for n in expected], "without gradients there is nothing to compute again"


def kept_by(suffix, given):
    """Bytes that are kept for the gradient when the taps are there, by where they lie."""
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = suffix(given)
    return sum(kept.values()), out


def test_of_blocks_that_are_computed_again_only_the_inputs_are_kept(vit):
    suffix = Suffix(vit, adaptation(find_method("full"), vit), taps("output.4"))
    images = torch.randn(2, 3, 32, 32)
    sizes = []
    for suffix.num_recomputed in (0, 1, 2, 4):
        size, out = kept_by(suffix, images)
        sizes.append(size)
        del out
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    assert sizes[-1] == kept_by(suffix.stemmed, images)[0] + 4 * (2 * 17 * 48) * 4, "four inputs of four blocks"


def test_taps_of_the_prefix_are_kept_in_the_context_that_is_asked_for_and_nothing_else_is(vit):
    suffix = Suffix(vit, adaptation(find_method("dtl+"), vit), taps("output.4"))
    features = Prefix(vit, suffix.need)(torch.randn(2, 3, 32, 32), suffix.need)
    there = []
    suffix.keep_taps = lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: there.append(t) or t, lambda t: t)
    suffix(features)[block_output(4)].sum().backward()
    inputs = {features[block_input(i)].data_ptr() for i in (1, 2, 3)}
    assert inputs <= {t.data_ptr() for t in there}
    weights = {p.data_ptr() for p in suffix.side.parameters()}
    assert {t.data_ptr() for t in there} <= inputs | weights, "what blocks keep stays where it is"


@pytest.mark.parametrize(("size", "is_fused"), [(80, False), ((8, 1016), False), ((64, 128), True), (96, True)])
def test_small_attention_is_multiplied_out_where_it_is_asked_for(size, is_fused):
    """8-pixel patches: 101, 128, 129 and 145 tokens; up to 128 are small."""
    backbone = sidetune.open_backbone(tiny_network("vit"), image_size=size)
    suffix = Suffix(backbone, adaptation(find_method("lora"), backbone), taps("pool.mean"))
    fused = {module for module in suffix.modules() if getattr(module, "fused_attn", False)}
    assert len(fused) == 4
    suffix.use_plain_attention()
    assert all(module.fused_attn == is_fused for module in fused)


def test_windows_are_small_whatever_the_image():
    backbone = tiny_backbone("swin")
    suffix = Suffix(backbone, adaptation(find_method("lora"), backbone), taps("pool.mean"))
    suffix.use_plain_attention()
    assert [m.fused_attn for m in suffix.modules() if hasattr(m, "fused_attn")] == [False] * 5


def dtypes(suffix, given):
    """The type in which each block was given its input and gave its output."""
    seen = {}
    for name, block in suffix.blocks.items():
        block.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0].dtype, out.dtype)}))
    out = suffix(given)
    return seen, out


BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
def test_frozen_blocks_compute_in_a_low_type_and_one_with_a_trained_part_keeps_its_norms(vit, dtype):
    adapted = Adaptation(side=Beside(1), trains=lambda name: name == "blocks.3.mlp.fc1.bias")
    suffix = Suffix(vit, adapted, taps("output.4 pool.mean"))
    suffix.hold(torch.device("cpu"), dtype)
    full = {name for name, p in suffix.named_parameters() if p.dtype == FP32}
    norms = {f"blocks.3.norm{i}.{name}" for i in (1, 2) for name in ("weight", "bias")}
    assert full == norms | {"blocks.3.mlp.fc1.bias"}
    with torch.autocast("cpu", BF16):
        seen, out = dtypes(suffix, Features({block_output(1): torch.randn(2, 17, 48)}))
    assert seen["2"] == seen["4"] == (dtype, dtype) and out[pooled("mean")].dtype == dtype
    suffix.hold(torch.device("cpu"), FP32)
    assert suffix.native == set() and suffix.dtype == FP32


def test_a_frozen_block_computes_natively_under_anothers_autocast(vit):
    suffix = Suffix(vit, Adaptation(side=Beside(1)), taps("output.2"))
    suffix.hold(torch.device("cpu"), BF16)
    features = Features({block_output(1): torch.randn(2, 17, 48)})
    plain = suffix(features)[block_output(2)]
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(suffix(features)[block_output(2)], plain)


def test_a_stem_with_a_trained_part_hands_on_the_type_that_blocks_compute_in(vit):
    """A class token in full precision would carry the tokens along; a stem that is trained whole stays as it is."""
    for part, dtype in (("stem.patch_embed.proj.bias", BF16), ("stem.", FP32)):
        suffix = Suffix(vit, Adaptation(trains=lambda name, part=part: name.startswith(part)), taps("output.1"))
        suffix.hold(torch.device("cpu"), BF16)
        with torch.autocast("cpu", BF16):
            assert suffix.stemmed(torch.randn(1, 3, 32, 32)).dtype == dtype


@pytest.mark.parametrize(("method", "is_awake"), [("full", True), ("linear", False), ("bitfit", False)])
def test_batchnorms_gather_statistics_where_their_weight_is_trained(method, is_awake):
    backbone = tiny_backbone("resnet")
    suffix = Suffix(backbone, adaptation(find_method(method), backbone), taps("output.8"))
    norms = [m for m in suffix.train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.training for m in norms} <= {is_awake}
    assert suffix.training and bool(norms) == (method != "linear")
    theirs = [m for block in backbone.blocks.values() for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in theirs]
    if norms:
        suffix(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(m.running_mean, mean) for m, mean in zip(theirs, before, strict=True)), "the caller's stay"
    moved = any(m.num_batches_tracked > 0 for m in norms)
    assert moved == is_awake


def test_a_batchnorm_that_has_no_weight_to_train_gathers_nothing(vit):
    wraps = {4: {"norm2": lambda _: nn.BatchNorm1d(17, affine=False)}}
    suffix = Suffix(vit, Adaptation(wraps=wraps), taps("output.4")).train()
    assert suffix.blocks["4"].training and not suffix.blocks["4"].norm2.training


def test_several_layers_in_a_row_are_replaced_where_the_first_stood(vit):
    class Doubled(nn.Module):
        def __init__(self, row):
            super().__init__()
            self.row = row

        def forward(self, x):
            return 2 * self.row(x)

    wraps = {4: {("norm2", "mlp"): Doubled}}
    suffix = Suffix(vit, Adaptation(wraps=wraps), taps("output.4"))
    block, plain, z = suffix.blocks["4"], vit.blocks[4], torch.randn(2, 17, 48)
    assert type(block.mlp) is nn.Identity and type(block.norm2) is Doubled and isinstance(plain.norm2, nn.LayerNorm)
    x = z + plain.attn(plain.norm1(z))
    assert torch.allclose(block(z), x + 2 * plain.mlp(plain.norm2(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "method", "is_native"), [("vit", "dtl+", True), ("resnet", "dtl+", False), ("vit", "bitfit", False)]
)
def test_a_frozen_pooling_with_weights_computes_in_the_low_type_throughout(kind, method, is_native):
    suffix = Suffix(
        tiny_backbone(kind),
        adaptation(find_method(method), tiny_backbone(kind)),
        Need([pooled(tiny_backbone(kind).native_pool)]),
    )
    suffix.hold(torch.device("cpu"), torch.bfloat16)
    assert (suffix.pool in suffix.native) == is_native
