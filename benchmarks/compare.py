"""All methods on the demo tasks: a learning rate for each from validation images, then several seeds, side by side.

DINOv2 ViT-S/14 (saliency-tuned). Rates are tried in runs of half as many epochs on 800 training and 200 validation
images: the method's own, twice and half of it, then doubled or halved for as long as that is better. The runs
themselves have all 1,000 images and are scored on test images, which choose nothing. NOAH's sizes are searched for
first, on the same 800 and 200 images. A method that fails is an error; what is finished is written after each method,
and a second call goes on with the rest.

    python benchmarks/compare.py [--pixels 56] [--epochs 6] [--seeds 3] [--methods linear,dtl+,...]
        # writes benchmarks/results/56px-6-epochs/results-DATA.json; scripts/generate_docs.py makes table and picture
"""

import argparse
import dataclasses
from pathlib import Path

import sidetune
from sidetune.choose.look import prepare
from sidetune.choose.rates import Trial
from sidetune.cli.demo import BACKBONE
from sidetune.cli.sizes import SUPERNET_LR
from sidetune.data.sources import Source, read_data
from sidetune.methods import METHODS
from sidetune.runs.compare import Comparison, compare
from sidetune.runs.run import Run
from sidetune.runs.sizes import Searchable, search_sizes
from sidetune.runs.trials import choose
from sidetune.tasks import task_of
from sidetune.train.loop import Silent

RESULTS = Path(__file__).parent / "results"
SAME = ("dtlv1",)
"""Other names of what is listed."""
SUPERNET_EPOCHS = 5
"""Times those of a run, as NOAH's authors have it."""
MAX_PARAMETERS = 180_000
"""Of a searched method: half of what NOAH's authors found on average on ViT-B, which is twice as wide."""


class Quiet(Silent):
    def method(self, name: str, seed: int) -> None:
        print(f"  {name}, seed {seed}", flush=True)

    def trial(self, trial: Trial) -> None:
        print(f"  lr {trial.choice['lr']:g}: val {100 * trial.val_accuracy:.1f} %", flush=True)


def tuned(name: str, method: sidetune.Method, data: str, backbone: sidetune.Backbone, recipe: sidetune.Recipe):
    """The method with the learning rate, and the sizes if it leaves them open, that validation images prefer."""
    splits = read_data(data, tune=True)
    ready = prepare(method, backbone, splits.train, transform="vtab", seed=0)
    if isinstance(ready, Searchable):
        supernets = dataclasses.replace(recipe, epochs=SUPERNET_EPOCHS * recipe.epochs, lr=SUPERNET_LR)
        limits = {"max_parameters": MAX_PARAMETERS, "recipe": supernets, "transform": "vtab"}
        method = ready = search_sizes(backbone, ready, splits.train, splits.val, **limits).method

    run = Run.of(splits, backbone, ready, recipe, task=task_of(splits.train), transform="vtab")
    rates = [factor * method.lr for factor in (1, 2, 0.5)]
    found = choose(run, splits, backbone, Quiet(), lr=True, rates=rates, rounds=[1 / 2], open_ended=True)
    lr = found.choice["lr"]
    print(f"  {name}: lr {lr:g}", flush=True)
    return dataclasses.replace(method, lr=lr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pixels", type=int, default=56)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="sprites-location,fashion-1k")
    parser.add_argument("--methods", default=",".join(m for m in METHODS if m not in SAME))
    options = parser.parse_args()
    backbone = sidetune.open_backbone(BACKBONE, image_size=options.pixels)
    recipe = sidetune.Recipe(epochs=options.epochs, lr_update="step")
    out = RESULTS / f"{options.pixels}px-{options.epochs}-epochs"
    out.mkdir(exist_ok=True)
    for data in options.data.split(","):
        print(data, flush=True)
        path, splits = out / f"results-{data}.json", read_data(data)
        done = Comparison.load(path) if path.exists() else None
        for name in options.methods.split(","):
            if done is None or name not in {row.method for row in done.rows}:
                method = tuned(name, METHODS[name], data, backbone, recipe)
                how = {"seeds": range(options.seeds), "transform": "vtab", "source": Source(name=data)}
                one, _ = compare(splits, backbone, {name: method}, recipe=recipe, report=Quiet(), **how)
                done = joined(done, one)
                done.save(path)


def joined(done: Comparison | None, one: Comparison) -> Comparison:
    """Rows of both; the time for features is the sum of what each method's own pass took."""
    if done is None:
        return one
    seconds = done.shared_features_seconds + one.shared_features_seconds
    return dataclasses.replace(done, rows=(*done.rows, *one.rows), shared_features_seconds=seconds)


if __name__ == "__main__":
    main()
