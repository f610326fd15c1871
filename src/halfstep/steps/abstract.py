"""What a step is: one transformation Graph -> Graph that declares the data it needs and states what holds afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule

from halfstep.graph.statistics import Statistics
from halfstep.registry import Method, Registry
from halfstep.steps.scheme import Scheme


@dataclass
class Context:
    """What every step of a run shares: the scheme, the statistics gathered so far, the run's random numbers, notes for the report."""

    scheme: Scheme
    statistics: Statistics
    generator: torch.Generator
    notes: list[str] = field(default_factory=list)


class AbstractStep(Method, ABC):
    """A subclass supplies `apply`; it works on the run's own copy of the graph and never touches the data.

    needs: names of the nodes whose statistics must be there before `apply`; the pipeline passes the data once for all of them.
    ensures: raises `GraphError` when the step did not leave behind what it promises.
    """

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
