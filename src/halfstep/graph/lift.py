"""Give batch norms and dropouts back their modules, so that ``train()`` and ``eval()`` keep their meaning."""

from __future__ import annotations

import operator
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node

from halfstep.graph.edit import add_module
from halfstep.graph.names import module_path, stored_name
from halfstep.graph.tree import at

_BATCH_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_FEATURE_DROPOUT = {2: nn.Dropout1d, 3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}


def lift_modules(graph: GraphModule) -> None:
    """Replace recorded batch-norm and dropout operators by calls of modules that the user's names belong to, in place."""
    lifted: dict[tuple[Any, ...], str] = {}
    for node in list(graph.graph.nodes):
        match str(node.target):
            case "aten.batch_norm.default":
                x, weight, bias, mean, variance, _, momentum, epsilon, _ = node.args
                _lift_batch_norm(graph, node, node, (x, weight, bias, mean, variance, momentum, epsilon), lifted)
            case "aten._native_batch_norm_legit_no_training.default":
                for user in [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]:
                    _lift_batch_norm(graph, node, user, node.args, lifted)
            case "aten.dropout.default":
                _lift_dropout(graph, node, nn.Dropout)
            case "aten.feature_dropout.default":
                _lift_dropout(graph, node, _FEATURE_DROPOUT[node.meta["val"].ndim])


def _lift_batch_norm(graph: GraphModule, node: Node, output: Node, args: tuple[Any, ...], lifted: dict[tuple[Any, ...], str]) -> None:
    """``output`` is the node that carries the normalized tensor; without running statistics the operator is left as it is.

    lifted: what was made so far: a module that is called twice is one.
    """
    x, weight, bias, mean, variance, momentum, epsilon = args
    if mean is None or variance is None:
        return
    tensors = {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias}
    kind = _BATCH_NORM[node.args[0].meta["val"].ndim]  # type: ignore[union-attr]
    key = (kind, momentum, epsilon, *(None if n is None else n.target for n in tensors.values()))
    if key not in lifted:
        module = kind(len(mean.meta["val"]), eps=epsilon, momentum=momentum, affine=weight is not None)
        module.load_state_dict({name: at(graph, n.target) for name, n in tensors.items() if n is not None}, strict=False)
        lifted[key] = add_module(graph, stored_name(graph, mean.target).rpartition(".")[0] or module_path(node) or node.name, module.eval())
    _call_instead(graph, output, lifted[key], x)


def _lift_dropout(graph: GraphModule, node: Node, kind: type[nn.modules.dropout._DropoutNd]) -> None:
    x, probability, _ = node.args
    _call_instead(graph, node, add_module(graph, module_path(node) or node.name, kind(probability).eval()), x)  # type: ignore[arg-type]


def _call_instead(graph: GraphModule, node: Node, path: str, x: Node) -> None:
    """Replace ``node`` by a call of the module at ``path`` on ``x``."""
    with graph.graph.inserting_before(node):
        call = graph.graph.call_module(path, (x,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.graph.erase_node(node)
