"""Train an adapted model in a loop of your own: it is an ordinary module, and its frozen half saves memory by itself.

python examples/plain_loop.py
"""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import sidetune
from sidetune.data.dataset import ImageDataset


def main(backbone="vit_small_patch14_dinov2.saliency", image_size=56, epochs=2):
    splits = sidetune.read_data("fashion-1k", tune=True)
    model = sidetune.adapt(backbone, "dtl+", classes=splits.train.classes, image_size=image_size, transform="vtab")
    train = ImageDataset(splits.train, model.transform.training(), is_random=False)
    batches = DataLoader(train, batch_size=32, shuffle=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for epoch in range(epochs):
        model.train()  # wakes the suffix alone
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    model.eval()
    accuracy = sidetune.evaluate(model, splits.val).accuracy
    print(f"validation accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
