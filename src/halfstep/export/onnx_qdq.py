"""ONNX with QuantizeLinear / DequantizeLinear around every operator: what ONNX Runtime, OpenVINO and TensorRT read as integers.

The operators are translated by `translate` where it knows all of them, else by PyTorch's own exporter (`torch_exporter`); `rewrite` gives
the result its integers; `verify` executes the file before it gets its name.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from torch import Tensor
from torch.fx import GraphModule

from halfstep.export.groups import store_groups
from halfstep.export.mark import mark
from halfstep.export.rewrite import rewrite
from halfstep.export.translate import translate
from halfstep.export.translation.writer import Untranslatable
from halfstep.export.verify import verify
from halfstep.files import atomic_path
from halfstep.report.record import ExportCheck
from halfstep.targets import ONNXRUNTIME, GroupForm, Target


def export_onnx(
    graph: GraphModule, path: Path, samples: tuple[Tensor, ...], target: Target = ONNXRUNTIME, groups: GroupForm | None = None
) -> ExportCheck:
    """Write ``graph`` (quantized, or in float) to ``path``, as ``target`` reads it best.

    groups: the form of weights with a scale for each group of inputs; default the target's.

    samples: inputs of the network, batch first; the export is executed on them and compared with the simulation. Raises `ExportError`,
    and leaves no file, where the network cannot be translated, ONNX Runtime refuses it or the comparison is beyond its bound.
    """
    marked = mark(graph)
    try:
        model = translate(marked.graph)
    except Untranslatable:
        from halfstep.export.torch_exporter import translate_with_torch  # takes seconds to load

        model = translate_with_torch(marked.graph, samples)
    store_groups(model, marked, groups or target.groups)
    rewrite(model, marked, target)
    with atomic_path(Path(path)) as temporary:
        ir.save(model, temporary)
        return verify(graph, temporary, samples, Path(path).name, target)
