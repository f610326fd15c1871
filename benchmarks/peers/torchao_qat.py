"""torchao's training with quantization in the loop on an exported graph (PT2E). Run with torchao's own interpreter.

``torch.export``, ``prepare_qat_pt2e`` with the quantizer of PyTorch's x86 backend (``X86InductorQuantizer``: weights symmetric and per
channel, activations asymmetric, one scale a tensor, inputs of convolutions and linear layers and both sides of additions on grids, where
the convolution's own side is fused), training, ``convert_pt2e``. Batch norms stay and the convolution's weights are scaled by their
running estimates before they are rounded; what is evaluated has them folded.

``--variant``
    default   ``get_default_x86_inductor_quantization_config``: ranges follow the smallest and largest values; as in torchao's tutorial
              they stay where they are after 40 % of the epochs, batch norms after 30 %
    best      ``LearnableFakeQuantize`` with LSQ's gradient scale, started on the calibration images (activations: ``HistogramObserver``,
              least squared error); scales and zero points go by the optimizer of the weights, as in LSQ's paper

Its grids are those of 8-bit types; fewer bits are ranges of codes (``quant_min``, ``quant_max``) within them. Weights and inputs of the
first and the last layer have 8 bits, the rule of halfstep's recipes.
"""

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, trained_network
from harness.qat_peer import OUTER_BITS, Loop, folded, qat_parser
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, write_row

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 64
LAST_OBSERVED, LAST_NORMALIZED = 0.4, 0.3  # shares of the epochs


def with_bits(spec: Any, bits: int, is_best: bool) -> Any:
    """The specification of a tensor with fewer codes, learned ones where that is asked for."""
    import torch
    from torchao.quantization.pt2e import HistogramObserver, LearnableFakeQuantize, PerChannelMinMaxObserver

    is_weight = spec.dtype == torch.int8
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_weight else (0, 2**bits - 1)
    found = dataclasses.replace(spec, quant_min=lowest, quant_max=highest)
    if not is_best:
        return found
    observer = PerChannelMinMaxObserver if is_weight else HistogramObserver
    learned = LearnableFakeQuantize.with_args(observer=observer, use_grad_scaling=True, eps=2**-12)
    return dataclasses.replace(found, observer_or_fake_quant_ctr=learned)


def quantizer(bits: int, variant: str, first: str, last: str) -> Any:
    """The x86 quantizer with the rule for the ``first`` and the ``last`` layer."""
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    start, is_best = x86.get_default_x86_inductor_quantization_config(is_qat=True), variant == "best"

    def config(input_bits: int, weight_bits: int) -> Any:
        return dataclasses.replace(
            start,
            input_activation=with_bits(start.input_activation, input_bits, is_best),
            output_activation=with_bits(start.output_activation, bits, is_best),
            weight=with_bits(start.weight, weight_bits, is_best),
        )

    found, outer = x86.X86InductorQuantizer().set_global(config(bits, bits)), config(OUTER_BITS, OUTER_BITS)
    return found.set_module_name_qconfig(first, outer).set_module_name_qconfig(last, outer)


def prepared(network: "torch.nn.Module", images: "torch.Tensor", bits: int, variant: str) -> "torch.nn.Module":
    """The graph with torchao's fake quantizers, their ranges found on the calibration images."""
    import torch
    from torch import nn
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    batch = torch.export.Dim("batch", min=2)
    graph = torch.export.export(network.train(), (images[:2],), dynamic_shapes=({0: batch},)).module()
    model: torch.nn.Module = prepare_qat_pt2e(graph, quantizer(bits, variant, layers[0], layers[-1]))
    pt2e.allow_exported_model_train_eval(model)
    model.eval()
    model.apply(pt2e.disable_fake_quant)
    with torch.no_grad():
        for part in images.split(BATCH_SIZE):
            model(part)
    model.apply(pt2e.enable_fake_quant)
    if variant == "best":
        model.apply(pt2e.enable_range_learning)
    model.train()
    return model


def freeze_norms(model: "torch.nn.Module") -> None:
    """Batch norms use their running estimates from here on, as in torchao's tutorial."""
    import torch

    for node in model.graph.nodes:  # type: ignore[union-attr]
        if node.target == torch.ops.aten.batch_norm.default:
            node.args = (*node.args[:5], False, *node.args[6:])
    model.recompile()  # type: ignore[operator]


class TutorialSchedule:
    """Ranges and batch norms stay as they are from their shares of the epochs on."""

    def __init__(self, model: "torch.nn.Module") -> None:
        self.model, self.is_observed, self.is_normalized = model, True, True

    def __call__(self, done: float) -> None:
        from torchao.quantization import pt2e

        if self.is_normalized and done >= LAST_NORMALIZED:
            freeze_norms(self.model)
            self.is_normalized = False
        if self.is_observed and done >= LAST_OBSERVED:
            self.model.apply(pt2e.disable_observer)
            self.is_observed = False


def levels(model: "torch.nn.Module") -> dict[str, int]:
    """Different codes in one channel of each layer's weight, at most."""
    import torch

    from harness.simulation import num_levels

    found = {}
    for node in model.graph.nodes:  # type: ignore[union-attr]
        if node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
            codes = node.args[1].args[0]
            found[node.name] = num_levels(getattr(model, codes.target).float(), 0)
    return found


def main() -> None:
    given = qat_parser(__doc__).parse_args()
    marks = Marks()
    warnings.simplefilter("ignore")
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    marks.reach(IMPORTED)
    torch.manual_seed(given.seed)
    network = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    marks.reach(READY)
    teacher = folded(network)
    model = prepared(network, images, given.bits, given.variant)
    watch = TutorialSchedule(model) if given.variant == "default" else None
    found = (Loop(given, teacher) if watch is None else Loop(given, teacher, watch=watch)).train(model)
    model.eval()
    model = convert_pt2e(model)
    marks.reach(QUANTIZED)
    write_row(given, marks, model, levels(model), **found)


if __name__ == "__main__":
    main()
