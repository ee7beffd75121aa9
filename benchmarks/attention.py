"""Fused against plain attention in a training step on a CPU: why suffixes on a CPU use the plain one for few tokens.

python benchmarks/attention.py         # writes benchmarks/results/attention-cpu.json
"""

import json
import statistics
import time
from pathlib import Path

import torch
from timm.layers.attention import Attention

from sidetune.measure.machine import birth_certificate

RESULTS = Path(__file__).parent / "results"


def seconds(fused: bool, tokens: int, width: int = 384, heads: int = 6, batch: int = 32, repeats: int = 15) -> float:
    """Median time of forward and backward with frozen weights under bf16 autocast."""
    attention = Attention(width, heads, qkv_bias=True).requires_grad_(False)
    attention.fused_attn = fused
    x = torch.randn(batch, tokens, width, requires_grad=True)
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            y = attention(x)
        y.float().sum().backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main() -> None:
    rows = []
    for tokens in (17, 37, 65, 101, 197, 257):
        fused, plain = seconds(True, tokens), seconds(False, tokens)
        rows.append({"tokens": tokens, "fused_seconds": fused, "plain_seconds": plain, "ratio": plain / fused})
        print(f"{tokens} tokens: fused {1e3 * fused:.1f} ms, plain {1e3 * plain:.1f} ms, ratio {plain / fused:.2f}")
    path = RESULTS / "attention-cpu.json"
    path.write_text(json.dumps({"kind": "attention", **birth_certificate(), "rows": rows}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
