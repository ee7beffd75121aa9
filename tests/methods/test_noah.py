"""NOAH: its modules, its sub-networks, and the supernet that is all of them."""

import random

import pytest
import timm
import torch

import sidetune
from sidetune.contract import check_method, disturb, vector
from sidetune.measure.parameters import count
from sidetune.methods.noah import NOAH, Space, Subnet

MIXED = Subnet(prompts=(5, 0, 1, 0), lora=(10, 1, 0, 0), adapter=(0, 5, 0, 10))


def mixed(**choices):
    return NOAH(**vars(MIXED), **choices)


def test_the_published_sub_network_of_cifar_100_counts_as_its_sizes_say():
    with torch.device("meta"):
        vit_b = sidetune.open_backbone(timm.create_model("vit_base_patch16_224", num_classes=0))
    method = NOAH(
        prompts=(10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10),
        lora=(10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1),
        adapter=(5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1),
    )
    expected = 69 * 768 + 47 * (768 + 2304) + 74 * (2 * 768 + 1) + 12 * 768
    counted = count(sidetune.adapt(vit_b, method, num_classes=10))
    assert (counted.trainable, counted.units) == (expected, 36)
    assert method.num_parameters(vit_b, method.subnet(vit_b)) == expected
    assert method.space(vit_b) == Space(num_blocks=12, sizes=(1, 5, 10), depths=(3, 6, 9, 12))


def test_a_sub_network_is_its_definition(vit):
    model = sidetune.adapt(vit, mixed(dropout=0.0), num_classes=3)
    disturb(model)
    images, blocks = torch.randn(2, 3, 32, 32), model.suffix.blocks
    z, present = vit.stem(images), 0
    for i, block in vit.blocks.items():
        if prompts := MIXED.prompts[i - 1]:
            own = model.suffix.side.prompts[str(i - 1)].expand(2, -1, -1)
            z, present = torch.cat([z[:, :1], own, z[:, 1 + present :]], dim=1), prompts
        x, own = block.norm1(z), blocks[str(i)]
        qkv = block.attn.qkv(x)
        if MIXED.lora[i - 1]:
            qkv = qkv + x @ own.attn.qkv.down.T @ own.attn.qkv.up.T
        q, k, v = qkv.unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        attended = torch.softmax(q @ k.transpose(-1, -2) / 4, dim=-1) @ v
        z = z + block.attn.proj(attended.transpose(1, 2).flatten(2))
        m = block.mlp(block.norm2(z))
        if MIXED.adapter[i - 1]:
            h = own.mlp.fc2.down(m)
            m = m + own.mlp.fc2.up(h * torch.sigmoid(1.702 * h))
        z = z + m
    z = torch.cat([z[:, :1], z[:, 1 + present :]], dim=1)
    assert torch.allclose(vector(model, images), vit.pools["token"](z), atol=1e-5)


@pytest.mark.parametrize("kind", ["prompts", "lora", "adapter"])
def test_dropout_reaches_every_part(vit, kind):
    none = dict.fromkeys(("prompts", "lora", "adapter"), (0, 0, 0, 0))
    model = sidetune.adapt(vit, NOAH(dropout=0.5, **{**none, kind: (4, 4, 4, 4)}), num_classes=3)
    disturb(model)
    images = torch.randn(1, 3, 32, 32).repeat(2, 1, 1, 1)
    first, second = model(images)
    assert torch.allclose(first, second, atol=1e-6)
    first, second = model.train()(images)
    assert not torch.allclose(first, second)


def test_the_supernet_can_be_each_of_its_sub_networks(vit):
    supernet = NOAH(supernet=True)
    model = sidetune.adapt(vit, supernet, num_classes=3)
    disturb(model)
    single = sidetune.adapt(vit, supernet.with_subnet(MIXED), num_classes=3)
    large = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in single.named_parameters():
            if p.requires_grad:  # the first rows and columns of the supernet's
                p.copy_(large[name][tuple(slice(n) for n in p.shape)])
    images = torch.randn(2, 3, 32, 32)
    supernet.activate(model, MIXED)
    assert torch.allclose(model(images), single(images), atol=1e-6)


def test_training_draws_another_sub_network_at_every_step_and_evaluation_keeps_the_one_it_has(vit):
    torch.manual_seed(0)
    model = sidetune.adapt(vit, NOAH(supernet=True), num_classes=3)
    active, images = model.suffix.side.active, torch.randn(2, 3, 32, 32)
    assert active.subnet == active.space.largest
    model(images)
    assert active.subnet == active.space.largest
    model.train()
    seen = set()
    for _ in range(8):
        model(images)
        seen.add(active.subnet)
    assert len(seen) > 4
    for subnet in seen:
        for sizes in vars(subnet).values():
            depth = sum(size > 0 for size in sizes)
            assert (
                depth in (1, 2, 3, 4) and all(size in (1, 5, 10) for size in sizes[:depth]) and not any(sizes[depth:])
            )


def test_neighbours_and_children_stay_in_the_space():
    rng, space = random.Random(0), Space(num_blocks=8, sizes=(1, 5, 10), depths=(2, 4, 8))

    def chance(p):
        return rng.random() < p

    parents = [space.draw(rng.choice) for _ in range(2)]
    neighbours = {space.mutate(parents[0], rng.choice, chance) for _ in range(300)}
    depths = {sum(size > 0 for size in n.lora) for n in neighbours}
    assert len(neighbours) > 100 and depths == {2, 4, 8}
    assert all(not any(n.lora[sum(size > 0 for size in n.lora) :]) for n in neighbours)
    children = {space.cross(*parents, chance) for _ in range(100)}
    assert children <= {
        Subnet(prompts=a.prompts, lora=b.lora, adapter=c.adapter) for a in parents for b in parents for c in parents
    }
    assert len(children) == 8


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"lora": (1, 2)}, "lora has 2 sizes, but the backbone has 4 blocks"),
        ({"adapter": (1, -2, 0, 0)}, "adapter must not be negative"),
        ({"adapter": (1, 49, 0, 0)}, "size 49 at mlp.fc2 of block 2 is above the backbone's width, 48"),
        ({"sizes": ()}, "sizes must be numbers above 0"),
        ({"depths": (3, 6)}, r"depths \(3, 6\) go beyond the 4 blocks"),
        ({"supernet": True, "lora": (1, 1, 1, 1)}, "a supernet has all sizes"),
    ],
)
def test_choices_that_make_no_sense_are_refused(vit, choices, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, "noah", num_classes=3, **choices)


def test_a_sub_network_with_gaps_keeps_the_contract(vit):
    check_method(mixed(), vit)
