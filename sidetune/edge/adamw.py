"""AdamW on a flat vector, as `torch.optim.AdamW` computes it; the first numbers are decayed, the rest are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidetune.edge.parameters import Array

EPS = np.float32(1e-8)


@dataclass(kw_only=True)
class AdamW:
    """Changes its arrays in place; they and `steps` are all of its state."""

    first: Array
    """Running mean of gradients."""
    second: Array
    """Running mean of their squares."""
    scratch: Array
    steps: int = 0

    @classmethod
    def of(cls, size: int) -> AdamW:
        return cls(
            first=np.zeros(size, np.float32), second=np.zeros(size, np.float32), scratch=np.empty(size, np.float32)
        )

    def step(
        self,
        parameters: Array,
        gradient: Array,
        *,
        lr: float,
        weight_decay: float,
        num_decayed: int,
        betas: tuple[float, float],
    ) -> None:
        """One update; `gradient` is overwritten."""
        self.steps += 1
        beta1, beta2 = betas
        parameters[:num_decayed] *= np.float32(1 - lr * weight_decay)
        self.first *= np.float32(beta1)
        self.first += np.multiply(gradient, np.float32(1 - beta1), out=self.scratch)
        np.square(gradient, out=gradient)
        gradient *= np.float32(1 - beta2)
        self.second *= np.float32(beta2)
        self.second += gradient
        np.sqrt(self.second, out=gradient)
        gradient *= np.float32((1 - beta2**self.steps) ** -0.5)
        gradient += EPS
        np.divide(self.first, gradient, out=gradient)
        gradient *= np.float32(lr / (1 - beta1**self.steps))
        parameters -= gradient
