"""An adapted model is an ordinary module: in a plain loop, in Lightning, in Hugging Face's Trainer."""

import pytest
import torch
from conftest import tiny_backbone
from torch.utils.data import DataLoader, TensorDataset

import sidetune
from sidetune.backbones.weights import digest_of
from sidetune.data.dataset import ImageDataset


@pytest.fixture
def model(vit):
    return sidetune.adapt(vit, "dtl+", num_classes=3, transform="vtab")


@pytest.fixture
def data(samples, model):
    return ImageDataset(samples, model.transform.evaluation(), is_random=False)


def learned(model, data, before):
    images = torch.stack([data[i][0] for i in range(9)])
    assert digest_of(model.prefix.state_dict()) == before, "the prefix is as it was"
    model.eval().cpu()
    accuracy = (model(images).argmax(1) == torch.arange(9) % 3).float().mean()
    assert accuracy > 0.6


def test_the_graph_holds_nothing_of_the_prefix_but_its_features(model, data):
    images = torch.stack([data[i][0] for i in range(4)])

    def saved_bytes(x):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes), lambda t: t):
            model(x)
        return sorted(saved)

    assert saved_bytes(images) == saved_bytes(model.features(images))


def test_a_plain_loop_trains_it(model, data):
    before = digest_of(model.prefix.state_dict())
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(8):
        model.train()
        for images, labels in DataLoader(data, batch_size=16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    learned(model, data, before)


@pytest.mark.filterwarnings("ignore")  # of Lightning about itself
def test_lightning_trains_it(model, data, tmp_path):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            images, labels = batch
            return torch.nn.functional.cross_entropy(self.model(images), labels)

        def configure_optimizers(self):
            return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-2)

    before = digest_of(model.prefix.state_dict())
    trainer = lightning.Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(), DataLoader(data, batch_size=16))
    learned(model, data, before)


@pytest.mark.filterwarnings("ignore")
def test_hugging_faces_trainer_trains_it(model, data, tmp_path):
    import transformers

    def collate(items):
        return {"x": torch.stack([image for image, _ in items]), "labels": torch.tensor([label for _, label in items])}

    before = digest_of(model.prefix.state_dict())
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path),
            num_train_epochs=8,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        data_collator=collate,
        train_dataset=data,
        compute_loss_func=lambda logits, labels, **_: torch.nn.functional.cross_entropy(logits, labels),
    )
    trainer.train()
    learned(model, data, before)


def test_the_seed_decides_the_start_and_leaves_the_global_state_alone(vit):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = sidetune.adapt(vit, "dtl", num_classes=3)
    assert torch.equal(torch.rand(1), expected)
    again = sidetune.adapt(vit, "dtl", num_classes=3)
    other = sidetune.adapt(vit, "dtl", num_classes=3, seed=1)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_starts_are_the_authors(vit):
    side = sidetune.adapt(vit, "dtl+", num_classes=3).suffix.side
    bound = 1 / 24**0.5  # kaiming uniform with a = sqrt(5): +-sqrt(1 / fan_in)
    assert all(0.5 * bound < m.a.abs().max() <= bound and not m.c.any() for m in side.w.values())
    assert 0.2 < side.g["stage1"].abs().max() <= 1 / 3
    head = sidetune.adapt(vit, "dtl+", num_classes=300).head
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.05) and not head.bias.any()


def test_batchnorm_learns_statistics_only_where_its_weight_is_trained():
    backbone = tiny_backbone("resnet")
    images = torch.randn(8, 3, 32, 32)
    for method, moves in {"dtl+": False, "bitfit": False, "partial": True, "full": True}.items():
        model = sidetune.adapt(backbone, method, num_classes=3)
        before = model.suffix.blocks["8"].bn1.running_mean.clone()
        model.train()
        model(images)
        assert torch.equal(model.suffix.blocks["8"].bn1.running_mean, before) != moves, method


def test_images_of_another_size_are_refused(model):
    for method in ("dtl+", "full"):
        with pytest.raises(ValueError, match="expected images of shape"):
            sidetune.adapt(tiny_backbone("vit"), method, num_classes=3)(torch.randn(1, 3, 16, 16))


def test_arguments_that_make_no_sense_are_refused(vit):
    with pytest.raises(ValueError, match="either num_classes or classes"):
        sidetune.adapt(vit, "dtl")
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        sidetune.adapt(vit, "dtl", num_classes=1)
    with pytest.raises(ValueError, match="different names"):
        sidetune.adapt(vit, "dtl", classes=("a", "a"))
    with pytest.raises(ValueError, match="already open"):
        sidetune.adapt(vit, "dtl", num_classes=2, image_size=64)


def test_load_trained_refuses_tensors_of_another_model(vit):
    model = sidetune.adapt(vit, "dtl", num_classes=3)
    with pytest.raises(ValueError, match="belong to another model"):
        model.load_trained(sidetune.adapt(vit, "dtl", num_classes=4).trained())


def test_features_of_two_tasks_come_from_one_pass(vit):
    from sidetune.seam.prefix import Prefix

    models = [sidetune.adapt(vit, name, num_classes=3) for name in ("dtl+", "linear", "partial")]
    need = models[0].need | models[1].need | models[2].need
    images = torch.randn(2, 3, 32, 32)
    features = Prefix(vit, need)(images, need)
    for model in models:
        assert torch.equal(model(features), model(images))


def test_tensor_datasets_of_features_can_be_moved(vit):
    model = sidetune.adapt(vit, "dtl+", num_classes=3)
    features = model.features(torch.randn(2, 3, 32, 32))
    assert features.to("cpu").taps.keys() == features.taps.keys()
    assert isinstance(TensorDataset(*features.tensors()), TensorDataset)
