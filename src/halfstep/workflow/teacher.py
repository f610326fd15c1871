"""Networks whose answers a training learns, where they are others than the float network: usually larger ones, or several together.

Mishra and Marr 2018, "Apprentice: using knowledge distillation techniques to improve low-precision network accuracy", scheme C: the
teacher is trained, and the student starts from its own trained float weights. Several answer by the mean of their scores: Hinton et al.
2015, "Distilling the knowledge in a neural network", section 2 (the geometric mean of their distributions).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from halfstep.errors import DataError, ModelError
from halfstep.graph.capture import capture
from halfstep.graph.run import check_inputs, run
from halfstep.steps.fold_batch_norm import fold_batch_norms
from halfstep.steps.training.loss import scores

Teacher = nn.Module | ExportedProgram


def capture_teachers(models: Sequence[Teacher], student: GraphModule, inputs: tuple[Tensor, ...]) -> tuple[GraphModule, ...]:
    """The graphs of one network or of several. Raises `ModelError` as `capture_teacher`, or where there is none."""
    if not models:
        raise ModelError("The list of teachers is empty: give at least one network, or none at all.")
    return tuple(capture_teacher(model, student, inputs) for model in models)


def capture_teacher(model: Teacher, student: GraphModule, inputs: tuple[Tensor, ...]) -> GraphModule:
    """The graph of ``model``, ready to answer. inputs: of the network ``student``, a few.

    Raises `ModelError` where it takes other inputs than the student, or gives scores of other classes.
    """
    name = type(model).__name__
    try:
        teacher = capture(model, inputs)
        check_inputs(teacher, inputs)
    except DataError as error:
        raise ModelError(f"The teacher, a {name}, does not take the inputs of the network it is to teach: {error}") from None
    own, taught = (tuple(scores(run(graph, inputs)).shape) for graph in (student, teacher))
    if own != taught:
        raise ModelError(
            f"The teacher, a {name}, gives scores of the shape {list(taught)} where the network gives {list(own)}: take one that was "
            "trained for the same classes."
        )
    fold_batch_norms(teacher)
    return teacher
