"""The rounding QUBO by a public solver: simulated annealing or tabu search of the package dwave-samplers.

The problem bᵀ Q b + c stands in `qubo`. ``annealing``: Metropolis sweeps over all weights while the temperature falls geometrically
(Kirkpatrick et al. 1983, "Optimization by simulated annealing"), from c to c / 1000 with c = max u^2 H_ii, the largest cost of one step
alone: the package's own schedule spends most sweeps outside of these. ``tabu``: the best flip that is not among the latest ones, even
where the cost rises, again from a changed solution ``num_restarts`` times (Palubeckis 2004, "Multistart tabu search strategies for the
unconstrained binary quadratic optimization problem").

Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", appendix A, compare the cross-entropy method with
qbsolv, a tabu search from random choices. Deviations: qbsolv is no longer maintained, the same authors' successor stands in for it;
``start: nearest`` lets it begin at nearest rounding, which the paper misses in qbsolv. What is returned is what the solver found, whether
or not it is better than nearest.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from halfstep.errors import RecipeError
from halfstep.rounding.abstract import ROUNDINGS, RoundingProblem
from halfstep.rounding.qubo import AbstractQubo, Qubo

_TABU_SWEEPS = 100  # of each tabu search between two restarts; ten times as many found nothing better


@final
@ROUNDINGS.register("qubo_dwave")
class QuboDwave(AbstractQubo):
    """Annealing or tabu search by dwave-samplers: pip install halfstep[qubo].

    start: where both begin; a hot annealing forgets it. num_reads: runs for each problem, the best counts. num_sweeps: of an annealing.
    num_restarts: of a tabu search.
    """

    solver: Literal["annealing", "tabu"] = "annealing"
    start: Literal["random", "nearest"] = "random"
    num_reads: int = Field(default=10, ge=1)
    num_sweeps: int = Field(default=1000, ge=1)
    num_restarts: int = Field(default=100, ge=0)

    def solve(self, qubo: Qubo, problem: RoundingProblem, generator: torch.Generator) -> Bool[Tensor, "G R n"]:
        """The best of each row's runs. Raises `RecipeError` where dwave-samplers is not installed."""
        seed = int(torch.randint(2**31, (), generator=generator))
        nearest = qubo.nearest()
        found = torch.zeros_like(nearest)
        num_groups, num_rows, _ = found.shape
        for index in range(num_groups * num_rows):
            group, row = divmod(index, num_rows)
            width = qubo.width[group, row]
            can_move = (width != 0).cpu()
            if bool(can_move.any()):
                matrix = qubo.matrix(group, row)[0].cpu()[can_move][:, can_move]
                warmest = float((width.square() * qubo.gram[group].diagonal()).max())
                start = nearest[group, row].cpu()[can_move] if self.start == "nearest" else None
                chosen = self._run(matrix, warmest, start, (seed + problem.row_offset + index) % 2**31)
                found[group, row, can_move.to(found.device)] = chosen.to(found.device)
            problem.progress((index + 1) / (num_groups * num_rows))
        return found

    def _run(self, matrix: Tensor, warmest: float, start: Tensor | None, seed: int) -> Tensor:
        """Choices [n] for the matrix Q [n, n] of one problem; ``warmest``: the temperature at which an annealing begins."""
        try:
            dimod: Any = importlib.import_module("dimod")
            samplers: Any = importlib.import_module("dwave.samplers")
        except ImportError:
            raise RecipeError("The rounding 'qubo_dwave' needs the package dwave-samplers: pip install halfstep[qubo]") from None
        options: dict[str, Any] = {"num_reads": self.num_reads, "seed": seed}
        if start is not None:
            options |= {"initial_states": start.numpy().astype(np.int8)[None], "initial_states_generator": "tile"}
        model = dimod.BinaryQuadraticModel(matrix.numpy(), "BINARY")
        if self.solver == "annealing":
            beta_range = (1 / warmest, 1000 / warmest) if warmest > 0 else None
            sampled = samplers.SimulatedAnnealingSampler().sample(model, num_sweeps=self.num_sweeps, beta_range=beta_range, **options)
        else:  # counted in updates instead of seconds, so that the outcome is the same everywhere
            lengths = {"coefficient_z_first": _TABU_SWEEPS, "coefficient_z_restart": _TABU_SWEEPS, "lower_bound_z": 1}
            sampled = samplers.TabuSampler().sample(model, timeout=None, num_restarts=self.num_restarts, **lengths, **options)
        best = sampled.first.sample
        return torch.tensor([bool(best[index]) for index in range(len(matrix))])
