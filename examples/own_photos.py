"""Fine-tune on a folder of your own photographs, and label a new one.

python examples/own_photos.py photos    # photos/train/CLASS/*.jpg, and photos/test/CLASS/*.jpg
"""

import sys
from pathlib import Path

import sidetune


def main(photos, backbone="vit_base_patch16_224.augreg_in21k", epochs=20, image_size=None):
    splits = sidetune.read_data(photos)
    model = sidetune.adapt(backbone, "dtl+", classes=splits.train.classes, image_size=image_size)
    recipe = sidetune.Recipe(epochs=epochs, keep="best")
    sidetune.fit(model, splits.train, val=splits.val, recipe=recipe, out="photos-dtl", overwrite=True)
    if splits.test is not None:
        print(f"test accuracy {100 * sidetune.evaluate(model, splits.test).accuracy:.1f} %")
    picture = Path(splits.train.images[0])
    prediction = sidetune.load("photos-dtl").predict(picture)
    print(f"{picture}: {prediction.label}, {prediction.probability:.0%}")
    return prediction


if __name__ == "__main__":
    main(sys.argv[1])
