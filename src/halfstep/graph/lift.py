"""Give batch norms and dropouts back their modules, so that ``train()`` and ``eval()`` keep their meaning."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.graph.names import module_path

_BATCH_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_FEATURE_DROPOUT = {2: nn.Dropout1d, 3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}


def lift_modules(graph: GraphModule) -> None:
    """Replace recorded batch-norm and dropout operators by calls of modules under the user's own names, in place."""
    for node in list(graph.graph.nodes):
        match str(node.target):
            case "aten.batch_norm.default":
                x, weight, bias, mean, variance, _, momentum, epsilon, _ = node.args
                _lift_batch_norm(graph, node, node, (x, weight, bias, mean, variance, momentum, epsilon))
            case "aten._native_batch_norm_legit_no_training.default":
                for user in [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]:
                    _lift_batch_norm(graph, node, user, node.args)
            case "aten.dropout.default":
                _lift_dropout(graph, node, nn.Dropout)
            case "aten.feature_dropout.default":
                _lift_dropout(graph, node, _FEATURE_DROPOUT[node.meta["val"].ndim])


def _lift_batch_norm(graph: GraphModule, node: Node, output: Node, args: tuple[Any, ...]) -> None:
    """``output`` is the node that carries the normalized tensor; without running statistics the operator is left as it is."""
    x, weight, bias, mean, variance, momentum, epsilon = args
    if mean is None or variance is None:
        return
    state: dict[str, Tensor] = {"running_mean": graph.get_buffer(mean.target), "running_var": graph.get_buffer(variance.target)}
    state |= {name: graph.get_parameter(n.target) for name, n in (("weight", weight), ("bias", bias)) if n is not None}
    path = mean.target.rpartition(".")[0] or f"batch_norm_{node.name}"
    if not isinstance(_submodule(graph, path), nn.modules.batchnorm._BatchNorm):
        kind = _BATCH_NORM[node.args[0].meta["val"].ndim]  # type: ignore[union-attr]
        module = kind(len(mean.meta["val"]), eps=epsilon, momentum=momentum, affine=weight is not None)
        module.load_state_dict(state, strict=False)
        graph.add_submodule(path, module.eval())
    _call_instead(graph, output, path, x)


def _lift_dropout(graph: GraphModule, node: Node, kind: type[nn.modules.dropout._DropoutNd]) -> None:
    x, probability, _ = node.args
    path = module_path(node) or f"dropout_{node.name}"
    if type(_submodule(graph, path)) is nn.Module and list(graph.get_submodule(path).named_children()):
        path = f"{path}.{node.name}"  # F.dropout inside a module that holds others
    if not isinstance(_submodule(graph, path), kind):
        graph.add_submodule(path, kind(probability).eval())  # type: ignore[arg-type]
    _call_instead(graph, node, path, x)  # type: ignore[arg-type]


def _submodule(graph: GraphModule, path: str) -> nn.Module | None:
    try:
        return graph.get_submodule(path)
    except AttributeError:
        return None


def _call_instead(graph: GraphModule, node: Node, path: str, x: Node) -> None:
    """Replace ``node`` by a call of the module at ``path`` on ``x``."""
    with graph.graph.inserting_before(node):
        call = graph.graph.call_module(path, (x,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.graph.erase_node(node)
