"""What a step is: one transformation Graph -> Graph that declares the data it needs and states what holds afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from halfstep.data import Data
from halfstep.graph.statistics import Statistics
from halfstep.graph.witness import Witness
from halfstep.ranges import AbstractRange
from halfstep.registry import Method, Registry
from halfstep.steps.checkpoint import Checkpoint
from halfstep.steps.scheme import Scheme

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
Progress = Callable[[str, float, int | None], None]
Tell = Callable[[str], None]


def _no_batches() -> Iterable[tuple[Tensor, ...]]:
    return ()


def _silent(phase: str, done: float, total: int | None) -> None:
    """No progress to show."""


def _quiet(line: str) -> None:
    """Nobody listens."""


@dataclass
class Context:
    """What every step of a run shares.

    scheme: which tensor gets which grid. statistics: gathered so far. generator: the run's random numbers. notes: for the report.
    batches: starts a pass over the calibration data. num_samples: how many there are, where that is known. progress: called with (phase,
    done, total or None). reference: the float network, node for node, from the first step that quantizes on. checkpoint: where a long
    step keeps what it has finished. position: of the step that runs, counted from 0. weight_range: the range estimator of the weights.
    training: what is trained on, all of it, with labels where there are any. validation: labelled data to watch a training on. teachers:
    networks whose mean answer is learned in place of the float network's. tell: called with a line of news. witness: what the network as
    given answers; None where the run starts from a quantized one.
    """

    scheme: Scheme
    statistics: Statistics
    generator: torch.Generator
    notes: list[str] = field(default_factory=list)
    batches: Batches = _no_batches
    num_samples: int | None = None
    progress: Progress = _silent
    reference: GraphModule | None = None
    checkpoint: Checkpoint | None = None
    position: int = 0
    weight_range: AbstractRange | None = None
    training: Data | None = None
    validation: Data | None = None
    teachers: tuple[GraphModule, ...] = ()
    tell: Tell = _quiet
    witness: Witness | None = None

    def generator_for(self, index: int) -> torch.Generator:
        """Random numbers of the layer ``index`` of this step alone: the same whatever was drawn before, so that a run can be resumed."""
        seed = hash((self.generator.initial_seed(), self.position, index))  # of integers: the same in every process
        return torch.Generator().manual_seed(seed % 2**63)


class AbstractStep(Method, ABC):
    """A subclass supplies `apply`; it works on the run's own copy of the graph and never touches the data.

    needs: names of the nodes whose statistics must be there before `apply`; the pipeline passes the data once for all of them.
    ensures: raises `GraphError` when the step did not leave behind what it promises. quantizes: whether the network computes something
    else after it, on purpose; the float network that results are compared with is the one before the first such step.
    """

    quantizes: ClassVar[bool] = False

    @property
    def is_exact(self) -> bool:
        """Whether the float network computes after it what it computed before, but for the order of sums; asked where it quantizes not."""
        return True

    def needs(self, graph: GraphModule) -> set[str]:
        """Names of the nodes whose histograms `apply` reads."""
        return set()

    @abstractmethod
    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """The transformed graph; may be the same object, changed in place."""

    def ensures(self, graph: GraphModule) -> None:
        """Check the promise of this step on its result."""
        return


STEPS: Registry[AbstractStep] = Registry("step")
