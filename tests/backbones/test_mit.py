"""MiT equals transformers' SegFormer encoder, whoever's file the weights come from, at any size."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

import sidetune
from sidetune.backbones.mit import MixTransformer, checkpoint_filter_fn
from sidetune.data.samples import Samples
from sidetune.seam.levels import levels

SMALL = {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4)}


@pytest.fixture(scope="module")
def theirs():
    from transformers import SegformerConfig, SegformerModel

    torch.manual_seed(0)
    config = SegformerConfig(
        depths=SMALL["depths"], hidden_sizes=SMALL["widths"], num_attention_heads=SMALL["num_heads"], drop_path_rate=0.0
    )
    model = SegformerModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def ours(state):
    network = MixTransformer(**SMALL)
    network.load_state_dict(checkpoint_filter_fn(state, network))
    return network.eval()


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (75, 110)])
@torch.no_grad()
def test_every_stage_is_transformers_own_at_any_size(theirs, size):
    images = torch.randn(2, 3, *size)
    expected = theirs(images, output_hidden_states=True).hidden_states
    backbone = sidetune.open_backbone(ours(theirs.state_dict()), image_size=size)
    z, found, norms = backbone.stem(images), [], []
    for i, block in backbone.blocks.items():
        if i in backbone.transitions:
            norms.append(backbone.transitions[i].norm)
            z = backbone.transitions[i](z)
        z = block(z)
        if i in (1, 3, 4, 5):
            found.append(z)
    norms.append(backbone.pools["mean"].norm)
    assert len(expected) == 4
    for map_, norm, theirs_ in zip(found, norms, expected, strict=True):
        torch.testing.assert_close(norm(map_).movedim(-1, 1), theirs_, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(theirs.state_dict())(images), expected[-1].mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)


def in_old_names(state):
    """As files of transformers 4 have them."""
    for now, then in (
        (r"^stages\.(\d)\.patch_embeddings\.", r"encoder.patch_embeddings.\1."),
        (r"^stages\.(\d)\.blocks\.", r"encoder.block.\1."),
        (r"^stages\.(\d)\.layer_norm\.", r"encoder.layer_norm.\1."),
        (r"layernorm_before", "layer_norm_1"),
        (r"layernorm_after", "layer_norm_2"),
        (r"attention\.q_proj", "attention.self.query"),
        (r"attention\.k_proj", "attention.self.key"),
        (r"attention\.v_proj", "attention.self.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"attention\.sequence_reduction\.sequence_reduction", "attention.self.sr"),
        (r"attention\.sequence_reduction\.layer_norm", "attention.self.layer_norm"),
        (r"mlp\.fc", "mlp.dense"),
    ):
        state = {re.sub(now, then, name): tensor for name, tensor in state.items()}
    return {f"segformer.{name}": tensor for name, tensor in state.items()}


def in_authors_names(network):
    """As the authors' files have them: stages from 1 on, k and v in one layer."""
    state = {}
    for name, tensor in network.state_dict().items():
        stage, rest = re.fullmatch(r"stages\.(\d)\.(.*)", name).groups()
        rest = rest.replace("attn.reduce.", "attn.sr.").replace("mlp.depthwise.", "mlp.dwconv.dwconv.")
        part, _, of = rest.partition(".")
        part = {"embed": "patch_embed", "blocks": "block", "norm": "norm"}[part]
        state[f"{part}{int(stage) + 1}.{of}"] = tensor
    for name in [name for name in state if ".attn.k." in name]:
        state[name.replace(".k.", ".kv.")] = torch.cat([state.pop(name), state.pop(name.replace(".k.", ".v."))])
    return state


@pytest.mark.parametrize("names", [in_old_names, lambda state: in_authors_names(ours(state))])
def test_files_of_the_authors_and_of_older_transformers_hold_the_same(theirs, names):
    expected, found = ours(theirs.state_dict()).state_dict(), ours(names(theirs.state_dict())).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_file_is_opened_by_its_architecture(tmp_path):
    torch.manual_seed(1)
    network = timm.create_model("mit_b0", num_classes=0)
    save_file({k: v.contiguous() for k, v in in_authors_names(network).items()}, tmp_path / "mit.safetensors")
    backbone = sidetune.open_backbone(str(tmp_path / "mit.safetensors"), architecture="mit_b0", image_size=64)
    assert backbone.card.architecture == "mit_b0" and backbone.num_features == 256
    assert all(
        torch.equal(a, b) for a, b in zip(backbone.stem.parameters(), network.stages[0].embed.parameters(), strict=True)
    )
    with pytest.raises(ConnectionError, match="pass a file of them .with architecture='mit_b0'"):
        sidetune.open_backbone("mit_b0")


@pytest.mark.parametrize(
    ("name", "millions"),
    [("mit_b0", 3.3), ("mit_b1", 13.2), ("mit_b2", 24.2), ("mit_b3", 44.1), ("mit_b4", 60.8), ("mit_b5", 81.4)],
)
def test_the_networks_are_as_large_as_published(name, millions):
    """Table 1a's encoders, without the decoder and a classifier."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_levels_are_the_stages_and_train_with_dtl():
    backbone = sidetune.open_backbone(MixTransformer(**SMALL), image_size=64)
    assert [(level.tap.at, level.width, level.reduction) for level in levels(backbone)] == [
        *((1, 8, 4), (3, 16, 8), (4, 24, 16), (5, 32, 32))
    ]
    task = sidetune.Segmentation(classes=("a", "b"), decoder="segformer", width=16)
    model = sidetune.adapt(backbone, "dtlv2", task=task, transform="vtab", rank=4)
    masks = [torch.randint(0, 2, (64, 64)).numpy().astype("int16") for _ in range(2)]
    images = torch.randint(0, 255, (2, 64, 64), dtype=torch.uint8).numpy()
    data = Samples(images=images, labels=masks, classes=("a", "b"), task="segmentation")
    sidetune.fit(model, data, recipe=sidetune.Recipe(epochs=1, batch_size=2, precision="fp32"))
    assert model.predict(torch.rand(3, 64, 64)).labels.shape == (64, 64)
