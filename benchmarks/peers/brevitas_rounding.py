"""Brevitas' roundings of the weights. Run with Brevitas' own interpreter.

``--method``
    nearest   its quantizers as they are
    gptq      ``apply_gptq``; gpfq: ``apply_gpfq``; both of its own post-training example, with their defaults (no act order)
    learned   its learned round like AdaRound: ``hard_sigmoid``, loss ``regularised_mse``, layer by layer, Adam 1e-3

Before: ``preprocess_for_quantize`` with the example's defaults (batch norms merged, 20 rounds of graph equalization that merge biases).
Backend ``layerwise`` (the input of every layer is quantized, additions stay in float); weights symmetric, scales by ``--scales``;
activations asymmetric, one scale a tensor, 99.999th percentile; biases int32 where activations are quantized. After: the example's
bias correction. Deviations from the example: it keeps the first convolution (3 input channels) at 8 bits by default and the last layer
only where it has 1,000 outputs, here both follow the rule of the setting; batches of 32 instead of 1 and float32 instead of float16
autocast for the learned round (made for GPUs).
"""

import argparse
import copy
import dataclasses
import functools
import warnings
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, trained_network
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, Parts, rounding_parser, write_row
from harness.settings import SETTINGS, Setting

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

METHODS = ("nearest", "gptq", "gpfq", "learned")
BATCH_SIZE, EQUALIZATION_ROUNDS, PERCENTILE, NUM_CLASSES = 64, 20, 99.999, 10


def is_outer(module: "torch.nn.Module") -> bool:
    """Whether a layer of these networks is the first (3 input channels) or the last (10 outputs); Brevitas asks about its own copy."""
    return getattr(module, "in_channels", None) == 3 or NUM_CLASSES in (
        getattr(module, "out_features", None),
        getattr(module, "out_channels", None),
    )


def quantized(network: "torch.nn.Module", setting: Setting, scales: str) -> "torch.nn.Module":
    """The network with Brevitas' layers, every scale still to be calibrated."""
    import torch
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
    from brevitas.inject import value
    from brevitas_examples.imagenet_classification.ptq.ptq_common import create_quant_maps

    model = preprocess_for_quantize(copy.deepcopy(network), equalize_iters=EQUALIZATION_ROUNDS, equalize_merge_bias=True)

    @value  # type: ignore[untyped-decorator, unused-ignore]
    def weight_bits(module: "torch.nn.Module") -> int:
        return setting.outer_bits if is_outer(module) else setting.weight_bits

    maps = create_quant_maps(
        dtype=torch.float32,
        bias_bit_width=32,
        weight_bit_width=weight_bits,
        weight_param_method=scales,
        weight_scale_type="float_scale",
        weight_quant_type="sym",
        weight_quant_granularity="per_channel" if setting.per_channel else "per_tensor",
        weight_narrow_range=False,
        weight_quant_format="int",
        act_quant_format="int",
        act_bit_width=setting.activation_bits,
        act_scale_type="float_scale",
        act_scale_computation_type="static",
        act_param_method="stats",
        act_quant_type="asym",
        act_quant_granularity="per_tensor",
        act_quant_percentile=PERCENTILE,
    )
    result: torch.nn.Module = layerwise_quantize(model, compute_layer_map=maps[1])
    return result.eval()


def learned_round(model: "torch.nn.Module", loader: "DataLoader[Any]", iterations: int) -> None:
    from brevitas_examples.common.learned_round.learned_round_trainer import LearnedRoundTrainer, get_blocks
    from brevitas_examples.imagenet_classification.ptq import learned_round_utils as example

    settings = argparse.Namespace(
        learned_round="hard_sigmoid",
        learned_round_loss="regularised_mse",
        learned_round_lr_scheduler=None,
        learned_round_lr=1e-3,
        learned_round_iters=iterations,
        learned_round_batch_size=32,
    )
    config = example.parse_args_to_dataclass(settings)
    config = dataclasses.replace(config, training_args=dataclasses.replace(config.training_args, use_amp=False))
    LearnedRoundTrainer(config=config).train(
        model=model,
        model_forward=example.vision_forward,
        block_forward=example.vision_block_forward,
        data_loader=loader,
        cache=example.CacheVision(),
        get_blocks_fn=functools.partial(get_blocks, block_check_fn=example.is_layer),
        keep_gpu=True,
    )


def quantize(network: "torch.nn.Module", images: "torch.Tensor", setting: Setting, given: argparse.Namespace) -> "torch.nn.Module":
    import torch
    from brevitas_examples.imagenet_classification.ptq import ptq_common as example
    from torch.utils.data import DataLoader, TensorDataset

    loader: DataLoader[Any] = DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=BATCH_SIZE)
    model = quantized(network, setting, given.scales)
    with torch.no_grad():
        model(images[:BATCH_SIZE])
    example.calibrate(loader, model)
    if given.method == "gptq":
        example.apply_gptq(loader, model, create_weight_orig=True)
    elif given.method == "gpfq":
        example.apply_gpfq(loader, model, act_order=False)
    elif given.method == "learned":
        learned_round(model, loader, given.iterations)
    example.apply_bias_correction(loader, model)
    return model


def levels(model: "torch.nn.Module", per_channel: bool) -> dict[str, int]:
    from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer

    from harness.simulation import num_levels

    axis = 0 if per_channel else None
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, QuantWeightBiasInputOutputLayer)]
    return {name: num_levels(module.quant_weight().value, axis) for name, module in found}


def main() -> None:
    parser = rounding_parser(__doc__, METHODS)
    parser.add_argument("--scales", choices=("stats", "mse"), default="mse", help="weights: largest magnitude, or least squared error")
    parser.add_argument("--iterations", type=int, default=1_000, help="of the learned round, its own default")
    given = parser.parse_args()
    marks, parts = Marks(), Parts()
    warnings.simplefilter("ignore")
    import torch
    from brevitas_examples.common.learned_round.learned_round_trainer import LearnedRoundTrainer
    from brevitas_examples.imagenet_classification.ptq import learned_round_utils  # noqa: F401 - imports are measured apart

    parts.watch(LearnedRoundTrainer, "_training_loop", "loop")
    marks.reach(IMPORTED)
    torch.manual_seed(given.seed)
    setting = SETTINGS[given.setting]
    network = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    marks.reach(READY)
    model = quantize(network, images, setting, given)
    marks.reach(QUANTIZED)
    more = {"iterations": given.iterations, "loop_cpu_seconds": parts.seconds["loop"]} if given.method == "learned" else {}
    write_row(given, marks, model, levels(model, setting.per_channel), **more)


if __name__ == "__main__":
    main()
