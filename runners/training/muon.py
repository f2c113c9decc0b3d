"""Muon (Keller Jordan, kellerjordan.github.io/posts/muon), its update matched to AdamW's (2502.16982), batched.

For a matrix of A × B with gradient G, momentum μ, learning rate η and weight decay λ:

    M ← M + (1 − μ)·(G − M)         U = G + μ·(M − G)                   Nesterov's momentum
    W ← W·(1 − η·λ) − η·0.2·√max(A, B)·NS(U)

NS is five steps of a quintic Newton–Schulz iteration: it keeps U's singular vectors and brings its singular values
near 1 (0.7 to 1.2). Such a matrix has entries of RMS 1 ÷ √max(A, B), so the factor makes an update's RMS about 0.2,
which is AdamW's: learning rate and weight decay mean what they mean there (2502.16982, section 2.2).

A fused projection is several matrices for this purpose, since the singular vectors of their stack are not theirs. All
matrices of one shape go through NS as one batch, in bf16: a handful of kernels a step, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7
ADAMW_RMS = 0.2


def orthogonalise(matrices_NAB: Tensor) -> Tensor:
    """NS of each of N matrices A × B, in the dtype given: singular vectors kept, singular values near 1."""
    a, b, c = COEFFICIENTS
    tall = matrices_NAB.shape[-2] > matrices_NAB.shape[-1]
    x = matrices_NAB.mT if tall else matrices_NAB
    x = x / x.flatten(1).norm(dim=1).clamp(min=SMALLEST_NORM)[:, None, None]
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for a group that says `rows`, fused AdamW for the others.

    `rows`: for each of the group's parameters, how its rows (outputs × inputs) split into matrices. Each group has lr
    and weight_decay; that of Muon momentum, those of AdamW betas and eps.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        # `fused` tells torch, when it loads a state, to keep AdamW's step counts on the device.
        super().__init__(groups, {"fused": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the parameters' gradients. Doesn't wait for the device; takes no closure."""
        for group in self.param_groups:
            if "rows" in group:
                self._muon(group)
            else:
                self._adamw(group)

    def _muon(self, group: Mapping[str, Any]) -> None:
        rows = [
            rows for parameter, rows in zip(group["params"], group["rows"], strict=True) if parameter.grad is not None
        ]
        parameters, gradients, (momenta,) = self._gathered(group, "momentum")
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        batches: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = {}
        for parameter, direction, split in zip(parameters, directions, rows, strict=True):
            for matrix, part in zip(parameter.split(split), direction.split(split), strict=True):
                matrices, parts = batches.setdefault(matrix.shape, ([], []))
                matrices.append(matrix)
                parts.append(part)
        for shape, (matrices, parts) in batches.items():
            steps = orthogonalise(torch.stack(parts).bfloat16()).to(matrices[0].dtype).contiguous()
            torch._foreach_add_(matrices, list(steps), alpha=-group["lr"] * ADAMW_RMS * max(shape) ** 0.5)

    def _adamw(self, group: Mapping[str, Any]) -> None:
        parameters, gradients, (means, squares) = self._gathered(group, "exp_avg", "exp_avg_sq")
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), device=parameter.device)
        adamw(
            parameters,
            gradients,
            means,
            squares,
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _gathered(self, group: Mapping[str, Any], *keys: str) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
        """The parameters of a group that have gradients, those, and their states under `keys`, zeros at first."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            for key in keys:
                if key not in self.state[parameter]:
                    self.state[parameter][key] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters]
        return parameters, gradients, [[self.state[parameter][key] for parameter in parameters] for key in keys]
