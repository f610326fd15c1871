"""AIMET's roundings of the weights. Run with AIMET's own interpreter.

``--method``
    nearest     ``QuantizationSimModel`` and ``compute_encodings`` with its default scheme (smallest and largest value)
    sqnr        the same with ``tf_enhanced``, the scheme that its AdaRound uses
    adaround    ``Adaround.apply_adaround`` with its default parameters but for ``--iterations`` (its own default below 8 bits: 15,000)
    seq_mse     ``apply_seq_mse`` with its defaults (20 candidates, input symmetry ``symqt``)
    cle_bc      ``equalize_model``, nearest, then an empirical bias correction: of this file, since AIMET 2.42 no longer has one

The model goes through ``prepare_model`` (additions and pads become modules, so that they get quantizers) and ``fold_all_batch_norms``.
``default_config.json`` has one scale a tensor, ``default_config_per_channel.json`` one a channel; both quantize the network's input and
the output of every operator, with convolution + ReLU and addition + ReLU as one. Weights only: all activation quantizers are removed.
By default every layer has the same bits; the rule of the setting is applied to the first and last layer's quantizers.
"""

import argparse
import copy
import logging
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, trained_network
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, Parts, rounding_parser, write_row
from harness.settings import SETTINGS, Setting

if TYPE_CHECKING:
    import torch
    from aimet_torch.quantsim import QuantizationSimModel
    from torch.utils.data import DataLoader

METHODS = ("nearest", "sqnr", "adaround", "seq_mse", "cle_bc")
BATCH_SIZE = 64
CONFIGS = {False: "default_config.json", True: "default_config_per_channel.json"}


def config_file(setting: Setting) -> str:
    from pathlib import Path

    from aimet_torch.common import quantsim_config

    return str(Path(str(quantsim_config.__file__)).parent / CONFIGS[setting.per_channel])


def prepared(network: "torch.nn.Module", images: "torch.Tensor", equalize: bool) -> "torch.nn.Module":
    """The network as AIMET wants it: operators as modules, batch norms folded (and layers equalized)."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.cross_layer_equalization import equalize_model
    from aimet_torch.model_preparer import prepare_model

    model = prepare_model(copy.deepcopy(network)).eval()
    if equalize:
        equalize_model(model, dummy_input=images[:1])
    else:
        fold_all_batch_norms(model, None, dummy_input=images[:1])
    return model


def weighted(model: "torch.nn.Module") -> list[tuple[str, Any]]:
    """Names and modules of the layers with weights, in the order of execution for these networks (the order of definition)."""
    import torch

    return [(name, module) for name, module in model.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]


def outer(model: "torch.nn.Module") -> list[str]:
    names = [name for name, _ in weighted(model)]
    return [names[0], names[-1]]


def simulator(model: "torch.nn.Module", images: "torch.Tensor", setting: Setting, scheme: str | None = None) -> "QuantizationSimModel":
    """A simulator with the bits of ``setting``, without scales yet. scheme: AIMET's own default without it."""
    from aimet_torch.quantsim import QuantizationSimModel

    sim = QuantizationSimModel(
        model,
        dummy_input=images[:1],
        quant_scheme=scheme,
        default_param_bw=setting.weight_bits,
        default_output_bw=setting.activation_bits or 8,
        config_file=config_file(setting),
    )
    for name in outer(model):
        sim.model.get_submodule(name).param_quantizers["weight"].bitwidth = setting.outer_bits
    if setting.activation_bits is None:
        _drop_activation_quantizers(sim)
    return sim


def _drop_activation_quantizers(sim: "QuantizationSimModel") -> None:
    import torch

    for module in sim.qmodules():
        module.input_quantizers = torch.nn.ModuleList([None] * len(module.input_quantizers))
        module.output_quantizers = torch.nn.ModuleList([None] * len(module.output_quantizers))


def calibrated(sim: "QuantizationSimModel", loader: "DataLoader[torch.Tensor]") -> "QuantizationSimModel":
    """With scales: every activation quantizer sees all calibration images."""
    import torch

    def run(model: "torch.nn.Module", _: Any = None) -> None:
        with torch.no_grad():
            for batch in loader:
                model(batch)

    sim.compute_encodings(run)
    return sim


def adaround(
    model: "torch.nn.Module", images: "torch.Tensor", loader: "DataLoader[torch.Tensor]", setting: Setting, given: argparse.Namespace
) -> "QuantizationSimModel":
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters

    parameters = AdaroundParameters(loader, len(loader), default_num_iterations=given.iterations)
    overrides = [(model.get_submodule(name), setting.outer_bits) for name in outer(model)]
    with tempfile.TemporaryDirectory() as folder:
        rounded = Adaround.apply_adaround(
            model,
            images[:1],
            parameters,
            path=folder,
            filename_prefix="weights",
            default_param_bw=setting.weight_bits,
            param_bw_override_list=overrides,
            default_config_file=config_file(setting),
        )
        sim = simulator(rounded, images, setting)
        sim.set_and_freeze_param_encodings(encoding_path=f"{folder}/weights.encodings")
    return calibrated(sim, loader)


def seq_mse(
    model: "torch.nn.Module", images: "torch.Tensor", loader: "DataLoader[torch.Tensor]", setting: Setting
) -> "QuantizationSimModel":
    from aimet_torch.seq_mse import apply_seq_mse

    sim = simulator(model, images, setting)
    apply_seq_mse(sim, loader)
    return calibrated(sim, loader)


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """The layer in question has been executed; the rest of the network need not be."""


def _channel_mean(model: "torch.nn.Module", layer: "torch.nn.Module", loader: "DataLoader[torch.Tensor]") -> "torch.Tensor":
    """Mean output of every channel of ``layer`` inside ``model``."""
    import torch

    total: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: "torch.Tensor") -> None:
        total.append(output.transpose(0, 1).flatten(1).double().mean(1) * len(output))
        raise _Reached

    hook = layer.register_forward_hook(keep)
    num_images = 0
    with torch.no_grad():
        for batch in loader:
            num_images += len(batch)
            try:
                model(batch)
            except _Reached:
                continue
    hook.remove()
    return torch.stack(total).sum(0) / num_images


def correct_biases(sim: "QuantizationSimModel", model: "torch.nn.Module", loader: "DataLoader[torch.Tensor]") -> "QuantizationSimModel":
    """Layer after layer: b += E[output in float] - E[output in the simulator, the layers before it corrected]."""
    import torch

    for name, layer in weighted(model):
        quantized = sim.model.get_submodule(name)
        shift = _channel_mean(model, layer, loader) - _channel_mean(sim.model, quantized, loader)
        if quantized.bias is None:
            quantized.bias = torch.nn.Parameter(torch.zeros(len(shift)))
        quantized.bias.data += shift.float()
    return sim


def quantize(network: "torch.nn.Module", images: "torch.Tensor", setting: Setting, given: argparse.Namespace) -> "QuantizationSimModel":
    from torch.utils.data import DataLoader

    loader: DataLoader[torch.Tensor] = DataLoader(images, batch_size=BATCH_SIZE)  # type: ignore[arg-type]
    model = prepared(network, images, given.method == "cle_bc")
    if given.method == "adaround":
        return adaround(model, images, loader, setting, given)
    if given.method == "seq_mse":
        return seq_mse(model, images, loader, setting)
    scheme = "tf_enhanced" if given.method == "sqnr" else None
    sim = calibrated(simulator(model, images, setting, scheme), loader)
    return correct_biases(sim, model, loader) if given.method == "cle_bc" else sim


def levels(sim: "QuantizationSimModel", per_channel: bool) -> dict[str, int]:
    from harness.simulation import num_levels

    found = {}
    for name, module in sim.model.named_modules():
        quantizers: Callable[..., Any] | None = getattr(module, "param_quantizers", None)
        if quantizers is not None and "weight" in quantizers and quantizers["weight"] is not None:  # type: ignore[operator, index]
            weight = quantizers["weight"](module.weight)  # type: ignore[index]
            found[name] = num_levels(weight.dequantize() if hasattr(weight, "dequantize") else weight, 0 if per_channel else None)
    return found


def main() -> None:
    parser = rounding_parser(__doc__, METHODS)
    parser.add_argument("--iterations", type=int, default=10_000)
    given = parser.parse_args()
    marks, parts = Marks(), Parts()
    from harness.torchvision_stub import declare_missing_operators

    declare_missing_operators()
    import torch
    from aimet_torch.adaround.activation_sampler import ActivationSampler
    from aimet_torch.adaround.adaround_optimizer import AdaroundOptimizer

    logging.disable(logging.WARNING)
    marks.reach(IMPORTED)
    torch.manual_seed(given.seed)
    parts.watch(ActivationSampler, "sample_and_place_all_acts_on_cpu", "sampling")
    parts.watch(AdaroundOptimizer, "_optimize_rounding", "optimizing")
    setting = SETTINGS[given.setting]
    network = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    marks.reach(READY)
    sim = quantize(network, images, setting, given)
    marks.reach(QUANTIZED)
    more: dict[str, float] = {}
    if given.method == "adaround":
        more = {"iterations": given.iterations, "loop_cpu_seconds": parts.seconds["optimizing"] - parts.seconds["sampling"]}
    write_row(given, marks, sim.model, levels(sim, setting.per_channel), parts=parts.seconds, **more)


if __name__ == "__main__":
    main()
