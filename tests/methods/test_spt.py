"""SPT-LoRA: what its sensitivity pass measures and selects, and what is then trained."""

import json
import sys

import pytest
import timm
import torch
from conftest import tiny_backbone, tiny_network
from safetensors.torch import save_file
from torch.nn import functional as F

import sidetune
from sidetune.cli.main import main
from sidetune.contract import check_method, disturb
from sidetune.measure.parameters import count
from sidetune.methods.sensitivity import Selection, pack, select, sensitivity, tunable, unpack
from sidetune.methods.spt import SPT
from sidetune.recipe import Recipe

KINDS = ("vit", "dinov2", "swin", "convnext")


def batches_for(backbone, number=2):
    generator = torch.Generator().manual_seed(0)
    size = (4, 3, *backbone.card.image_size)
    return [(torch.randn(size, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(number)]


def prepared(backbone, **choices):
    return SPT(**{"budget": 3000, "rank": 2, **choices}).prepare(backbone, batches_for(backbone), 3)


def test_sensitivity_is_the_sum_of_squared_gradients_of_batches(vit):
    batches = batches_for(vit, 3)
    found = sensitivity(vit, iter(batches), 3, num_batches=2)
    model = sidetune.adapt(vit, "full", num_classes=3)  # starts with the same head
    expected = dict.fromkeys(found, 0)
    for images, labels in batches[:2]:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        expected = {n: e + model.get_parameter(f"suffix.{n}").grad ** 2 for n, e in expected.items()}
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-12), name


def test_linear_layers_and_norms_may_be_tuned_and_the_embedding_may_not(vit):
    names = tunable(vit, "native")
    in_block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    layers = [f"blocks.{i}.{layer}" for i in range(1, 5) for layer in in_block] + ["pool.norm"]
    assert names.keys() == {f"{layer}.{p}" for layer in layers for p in ("weight", "bias")}
    assert names["blocks.1.attn.qkv.weight"] == 3 and names["blocks.1.mlp.fc1.weight"] == 1
    assert names["blocks.1.norm1.weight"] == names["blocks.1.mlp.fc1.bias"] == 0


def test_dense_matrices_get_low_rank_updates_dense_vectors_are_trained_whole_and_the_rest_weight_by_weight():
    sums = {"blocks.1.attn.qkv.weight": torch.zeros(12, 4), "blocks.1.norm1.bias": torch.zeros(10)}
    qkv, bias = sums.values()
    qkv[4:8] = torch.arange(1.0, 17).view(4, 4)  # k as a whole
    qkv[0, 3] = qkv[11, 1] = 20.0  # one weight of q, one of v
    bias[0] = 30.0
    matrices = {"blocks.1.attn.qkv.weight": 3, "blocks.1.norm1.bias": 0}

    # eight or more of k make an update of rank 1, 8 parameters; 2 + 1 single weights
    found = select(sums, matrices, budget=11, rank=1, alpha=1, beta=5)
    assert found.lowrank == ("blocks.1.attn.qkv.weight/1",) and found.whole == ()
    single = {name: unpack(text).tolist() for name, text in found.single}
    assert single == {"blocks.1.attn.qkv.weight": [3, 45], "blocks.1.norm1.bias": [0]}

    # one in ten makes the bias with beta = 10, 10 parameters; of k the two largest are affordable
    found = select(sums, matrices, budget=14, rank=1, alpha=1, beta=10)
    assert found.whole == ("blocks.1.norm1.bias",) and found.lowrank == ()
    single = {name: unpack(text).tolist() for name, text in found.single}
    assert single == {"blocks.1.attn.qkv.weight": [3, 30, 31, 45]}


def test_places_are_packed_without_loss():
    places = torch.randperm(5_000_000, generator=torch.Generator().manual_seed(0))[:20_000].sort().values
    assert torch.equal(unpack(pack(places)), places)
    assert len(pack(places)) < 3 * len(places)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_comes_near_to_the_budget(kind):
    backbone = tiny_backbone(kind)
    for budget in (1000, 3000):
        method = prepared(backbone, budget=budget)
        trained = count(sidetune.adapt(backbone, method, num_classes=3)).trainable
        assert abs(trained - budget) <= 0.25 * budget


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_holds_with_single_weights_too(kind):
    backbone = tiny_backbone(kind)
    method = prepared(backbone)
    assert method.selection.lowrank and method.selection.whole and method.selection.single
    check_method(method, backbone)


def test_layers_that_are_convolutions_start_exactly_as_they_were_too():
    network = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=0)
    backbone = sidetune.open_backbone(network, image_size=32)
    method = prepared(backbone)
    assert isinstance(backbone.blocks[1].mlp.fc1, torch.nn.Conv2d) and method.selection.single
    check_method(method, backbone)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_tuned_folds_into_the_weights(kind):
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, prepared(backbone), num_classes=3)
    disturb(model)
    images = torch.randn(2, 3, *backbone.card.image_size)
    assert torch.allclose(model.merge(into=tiny_network(kind, seed=7))(images), model(images), atol=1e-5)


def test_only_the_selected_weights_change(vit):
    method = prepared(vit)
    model = sidetune.adapt(vit, method, num_classes=3)
    disturb(model)
    merged = sidetune.open_backbone(model.merge(into=tiny_network("vit")))
    structured = {name.partition("/")[0] for name in method.selection.lowrank} | {*method.selection.whole}
    single = dict(method.selection.single)
    for part, module in merged.named_parts(merged.native_pool):
        plain = dict(vit.named_parts(vit.native_pool))[part].state_dict()
        for name, tensor in module.state_dict().items():
            changed = (tensor != plain[name]).flatten().nonzero().flatten()
            full = f"{part}.{name}"
            if full in single and full not in structured:
                assert changed.tolist() == unpack(single[full]).tolist(), full
            elif full not in structured and full != "stem.cls_token":
                assert not len(changed), full


def test_a_tuned_model_is_saved_with_its_selection(vit, tmp_path):
    model = sidetune.adapt(vit, prepared(vit), num_classes=3)
    disturb(model)
    model.save_pretrained(tmp_path)
    loaded = sidetune.load(tmp_path, backbone=vit)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert loaded.method == model.method
    assert len((tmp_path / "README.md").read_text()) < 2000, "the model card leaves the selection out"


def test_fit_of_prepared_images_learns_and_resumes(vit, samples, tmp_path):
    method = sidetune.prepare(SPT(budget=2000, rank=2), vit, samples, transform="vtab")
    again = sidetune.prepare(SPT(budget=2000, rank=2), vit, samples, transform="vtab")
    assert method == again, "the selection is decided by data and seed"
    model = sidetune.adapt(vit, method, classes=samples.classes, transform="vtab")
    recipe = Recipe(epochs=2, batch_size=8, precision="fp32")
    done = sidetune.fit(model, samples, recipe=recipe, out=tmp_path / "run")
    assert done.history[-1].loss < done.history[0].loss
    other = sidetune.adapt(vit, method, classes=samples.classes, transform="vtab")
    sidetune.fit(other, samples, recipe=recipe, out=tmp_path / "run", resume=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), other(images))


def test_methods_with_nothing_to_find_out_never_look_at_an_image(vit, samples):
    def unreadable():
        raise AssertionError("nobody asked for images")
        yield

    lora = sidetune.METHODS["lora"]
    assert lora.prepare(vit, unreadable(), 3) is lora
    done = prepared(vit)
    assert done.prepare(vit, unreadable(), 3) is done


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (SPT(), "SPT tunes what a sensitivity pass over training images selects, and there was none"),
        (
            SPT(selection=Selection(lowrank=("blocks.9.mlp.fc1.weight/0",), whole=(), single=())),
            "the selection was made on another backbone; this one has no blocks.9.mlp.fc1.weight",
        ),
        (
            SPT(rank=49, selection=Selection(lowrank=("blocks.1.mlp.fc1.weight/0",), whole=(), single=())),
            "rank is 49, above the width of the backbone, 48",
        ),
    ],
)
def test_without_a_fitting_selection_it_is_refused(vit, method, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, method, num_classes=3)


def test_choices_that_make_no_sense_are_refused(vit):
    with pytest.raises(ValueError, match="budget must be at least 1, got 0"):
        SPT(budget=0)
    with pytest.raises(ValueError, match="measured on training images, and there are none"):
        SPT().prepare(vit, [], 3)


def test_single_weights_keep_what_their_layer_reads_and_no_weight_made_for_it():
    places = pack(torch.arange(5000))
    single = tuple((f"blocks.{i}.mlp.fc2.weight", places) for i in range(1, 13))
    with torch.device("meta"):
        vit_b = sidetune.open_backbone(timm.create_model("vit_base_patch16_224", num_classes=0))
        method = SPT(selection=Selection(lowrank=(), whole=(), single=single))
        model = sidetune.adapt(vit_b, method, num_classes=10)
        assert count(model).trainable == 768 + 12 * 5000
        bitfit = sidetune.adapt(vit_b, "bitfit", num_classes=10)
        single, without = (sidetune.plan(m, Recipe(precision="fp32")).memory for m in (model, bitfit))
    inputs = 12 * 32 * 197 * 4 * 768 * 4  # bytes of 4 d a token and block
    assert abs(single.activations - without.activations - inputs) < 2**20
    made_weights = 12 * 4 * 768 * 768 * 4
    assert single.workspace - without.workspace < made_weights / 2


@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_the_command_line_makes_the_selection_itself(verb, tmp_path, monkeypatch, capsys, folder):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    words = [verb, folder, "--backbone", tmp_path / "tiny.safetensors", "--epochs", 1, "--out", tmp_path / "out"]
    words += ["--set", "architecture=vit_tiny_patch16_224", "--set", "image_size=32", "--json"]
    words += ["--method", "spt-lora", "--set", "method.budget=50000"] if verb == "fit" else ["--methods", "spt-lora"]
    monkeypatch.setattr(sys, "argv", ["sidetune", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
        raise SystemExit(0)
    assert not stopped.value.code
    result = json.loads(capsys.readouterr().out)
    parameters = result["parameters"] if verb == "fit" else result["rows"][0]["parameters"]
    if verb == "fit":
        assert parameters["trainable"] == pytest.approx(50_000, rel=0.25)
    assert 0 < parameters["trainable"] < 450_000


def test_low_rank_updates_drop_out_in_training_alone(vit):
    selection = Selection(lowrank=("blocks.1.attn.qkv.weight/0",), whole=(), single=())
    model = sidetune.adapt(vit, SPT(selection=selection, rank=2), num_classes=3)
    disturb(model)
    layer = model.suffix.blocks["1"].attn.qkv
    x = torch.randn(8, 17, 48)
    q, k, v = (layer(x) - layer.base(x)).chunk(3, dim=-1)
    assert q.any() and not k.any() and not v.any()
    down, up = layer.lowrank.down[0], layer.lowrank.up[0]
    assert torch.allclose(q, x @ down.T @ up.T, atol=1e-5)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))
