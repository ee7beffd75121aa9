"""Which method works on which family of backbones: for `sidetune methods` and for the docs."""

from __future__ import annotations

from sidetune.backbones import FAMILIES
from sidetune.methods import METHODS

SUMMARIES = {
    "linear": "the head alone",
    "partial": "the last block and the final norm",
    "full": "everything",
    "bitfit": "every bias",
    "lora": "low-rank updates of q and v (of the MLP in ConvNeXt)",
    "lora-fused": "one low-rank update of the fused qkv",
    "vpt-shallow": "prompt tokens in front of the first block",
    "vpt-deep": "prompt tokens in front of every block",
    "adapter": "two small layers behind the MLP",
    "adapter-vpt": "the same, wider and started at zero",
    "adaptformer": "two small layers beside the MLP",
    "ssf": "a scale and a shift of every layer's channels",
    "fact-tt": "updates of all linear layers with shared outer factors",
    "fact-tk": "the same, with a shared core as well",
    "arc": "a shared projection and its transpose in front of attention and MLP, scaled for each block",
    "rlrr": "linear layers rescaled by rows and columns, norms as in ssf",
    "spt-lora": "what is most sensitive: low-rank updates, whole vectors, single weights",
    "dtl": "low-rank maps beside the blocks, written back from block N/2 + 1 on",
    "dtl+": "dtl with a shared depthwise convolution",
    "dtlv1": "the journal's name of dtl+",
    "dtlv2": "sparse low-rank maps, one side network for all stages, written back by an enhanced fusion",
    "dtlv2-ls": "dtlv2 with one fusion a stage, scaled and shifted for blocks that share what was read (L-Share)",
    "mist": "low-rank attention on the sum of all taps; nothing is written back",
    "lst": "a copy of the backbone 8 times narrower, pruned from it, beside all taps; nothing is written back",
    "last": "low-rank attention on running sums of every second tap; nothing is written back",
    "lorand": "adapters of summed low-rank weights after attention and MLP",
    "noah": "adapters, LoRA and prompts of sizes found by `sidetune search`",
    "dtl+*": "dtl+ written back from block 1 on",
}


def family_names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(family.name for family in FAMILIES.values()))


def matrix() -> dict[str, dict[str, str | None]]:
    """By method and family: None where it works, else the reason why it is refused."""
    families = FAMILIES.values()
    return {name: {family.name: method.refuses(family) for family in families} for name, method in METHODS.items()}


def summary_of(name: str) -> str:
    return SUMMARIES.get(name, "")


def markdown() -> str:
    """The table in docs/methods.md."""
    names = family_names()
    lines = [
        "| method | what is trained | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for name, by_family in matrix().items():
        marks = ["yes" if by_family[family] is None else "no" for family in names]
        lines.append(f"| `{name}` | {summary_of(name)} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"
