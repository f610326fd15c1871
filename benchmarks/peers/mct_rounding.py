"""Sony's Model Compression Toolkit. Run with its own interpreter.

``--method``
    ptq    ``pytorch_post_training_quantization`` with its default ``CoreConfig``: thresholds by least squared error, bias correction
    gptq   ``pytorch_gradient_post_training_quantization``: soft quantizers of all layers at once, ``--epochs`` over the images, loss on
           the activations; Hessian weights and gradual activation quantization off (its Hessian scores alone take longer than all else)

The platform is its default one (IMX500, version 1) with other numbers of bits: weights symmetric, activations one power-of-two threshold
a tensor, convolution + ReLU and addition + ReLU as one. By default it gives every layer the same bits, the first and the last too; the rule
of the setting goes through its network editor.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from harness.peer import Marks, calibration_images, trained_network
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, rounding_parser, write_row
from harness.settings import SETTINGS, Setting

if TYPE_CHECKING:
    import numpy as np
    import torch

METHODS = ("ptq", "gptq")
BATCH_SIZE = 32


def platform(setting: Setting) -> Any:
    """The default platform with the bits of ``setting`` and no choice between several."""
    from model_compression_toolkit.target_platform_capabilities.constants import KERNEL_ATTR, WEIGHTS_N_BITS
    from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import tpc

    activations = {
        "activation_n_bits": setting.activation_bits or 8,
        "enable_activation_quantization": setting.activation_bits is not None,
        "supported_input_activation_n_bits": (setting.activation_bits or 8,),
    }
    weights = {WEIGHTS_N_BITS: setting.weight_bits, "weights_per_channel_threshold": setting.per_channel}
    linear, _, default = tpc.get_op_quantization_configs()
    linear = linear.clone_and_edit(attr_to_edit={KERNEL_ATTR: weights}, **activations)
    return tpc.generate_tpc(default.clone_and_edit(**activations), linear, [linear], name="benchmark")


def core_config(setting: Setting, network: "torch.nn.Module") -> Any:
    """Its defaults, and the rule for the first and last layer as two edits of its graph."""
    import torch
    from model_compression_toolkit import core
    from model_compression_toolkit.core.common.network_editors.actions import ChangeCandidatesWeightsQuantConfigAttr, EditRule
    from model_compression_toolkit.core.common.network_editors.node_filters import NodeNameFilter

    if setting.outer_bits == setting.weight_bits:
        return core.CoreConfig()
    layers = [name for name, module in network.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    action = ChangeCandidatesWeightsQuantConfigAttr(attr_name="weight", weights_n_bits=setting.outer_bits)
    # Its graph names a node after the module, with underscores; a convolution merged with its batch norm has both names.
    names = [name.replace(".", "_") for name in (layers[0], layers[-1])]
    rules = [EditRule(filter=NodeNameFilter(name) | NodeNameFilter(f"{name}_bn"), action=action) for name in names]
    return core.CoreConfig(debug_config=core.DebugConfig(network_editor=rules))


def quantize(network: "torch.nn.Module", images: "np.ndarray[Any, Any]", setting: Setting, given: argparse.Namespace) -> "torch.nn.Module":
    import model_compression_toolkit as mct

    def batches() -> "Iterator[list[np.ndarray[Any, Any]]]":
        for start in range(0, len(images), BATCH_SIZE):
            yield [images[start : start + BATCH_SIZE]]

    common = {"core_config": core_config(setting, network), "target_platform_capabilities": platform(setting)}
    model = copy.deepcopy(network)
    if given.method == "ptq":
        return mct.ptq.pytorch_post_training_quantization(model, batches, **common)[0]
    config = mct.gptq.get_pytorch_gptq_config(
        n_epochs=given.epochs,
        use_hessian_based_weights=False,
        use_hessian_sample_attention=False,
        gradual_activation_quantization=False,
    )
    return mct.gptq.pytorch_gradient_post_training_quantization(model, batches, gptq_config=config, **common)[0]


def levels(model: "torch.nn.Module", per_channel: bool) -> dict[str, int]:
    from harness.simulation import num_levels

    found = {}
    for name, module in model.named_modules():
        quantizers: dict[str, Any] | None = getattr(module, "weights_quantizers", None)
        if quantizers and "weight" in quantizers:
            module.set_quantize_weights(module.get_quantized_weights())  # type: ignore[operator]
            layer: Callable[..., Any] = module.layer  # type: ignore[assignment]
            found[name] = num_levels(layer.weight, 0 if per_channel else None)  # type: ignore[attr-defined]
    return found


def main() -> None:
    parser = rounding_parser(__doc__, METHODS)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    marks = Marks()
    from harness.torchvision_stub import declare_missing_operators

    declare_missing_operators()
    import model_compression_toolkit  # noqa: F401 - imports are measured apart
    import torch

    marks.reach(IMPORTED)
    torch.manual_seed(given.seed)
    setting = SETTINGS[given.setting]
    network = trained_network(given.network)
    images = calibration_images(given.calibration)
    marks.reach(READY)
    model = quantize(network, images, setting, given).eval()
    marks.reach(QUANTIZED)
    more = {"iterations": given.epochs * -(-len(images) // BATCH_SIZE)} if given.method == "gptq" else {}
    write_row(given, marks, model, levels(model, setting.per_channel), **more)


if __name__ == "__main__":
    main()
