"""The trained networks as float ONNX files that Aidge 0.10.1 can quantize; the function stays the same up to rounding.

    python -m harness.aidge_network --network resnet20 --out resnet20.onnx

Its quantizer knows no strided slice and no padding of its own, so that two things are written as convolutions:

* the shortcut of ResNet-20/56 (every second pixel, channels of zeros before and behind) as a 1x1 convolution with stride 2 and an identity
  for a weight. The channels of zeros get one weight of 1e-6: with none, Aidge divides by their largest weight per channel, and every score
  is NaN. They put out a millionth of an input.
* ResNet-8's padding at the right and the bottom and its 3x3 convolution with stride 2 as a 4x4 convolution with a padding of 1 whose first
  row and column are 0.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from harness.data import NETWORKS
from harness.peer import trained_network
from harness.torch_onnx import export

SLIGHT = 1e-6


def shortcut(num_inputs: int, num_outputs: int, pad: int) -> nn.Conv2d:
    """Every second pixel, with ``pad`` channels of nearly zeros before the inputs and the rest behind them."""
    convolution = nn.Conv2d(num_inputs, num_outputs, 1, stride=2, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        for channel in range(num_outputs):
            is_input = pad <= channel < pad + num_inputs
            convolution.weight[channel, (channel - pad) % num_inputs] = 1.0 if is_input else SLIGHT
    return convolution


def padded(inner: nn.Conv2d) -> nn.Conv2d:
    """``inner`` (3x3, stride 2) behind a padding of 0 left and above and 1 right and below, as one convolution."""
    convolution = nn.Conv2d(inner.in_channels, inner.out_channels, 4, stride=2, padding=1, bias=inner.bias is not None)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[:, :, 1:, 1:] = inner.weight
        if convolution.bias is not None and inner.bias is not None:
            convolution.bias.copy_(inner.bias)
    return convolution


def rewritten(model: nn.Module) -> nn.Module:
    """``model``, changed in place, in eval mode."""
    for block in list(model.modules()):
        pad = getattr(getattr(block, "shortcut", None), "pad", None)
        if isinstance(pad, int):
            block.shortcut = shortcut(block.conv1.in_channels, block.conv1.out_channels, pad)  # type: ignore[union-attr, arg-type]
        if isinstance(getattr(getattr(block, "conv1", None), "pad", None), nn.ZeroPad2d):
            block.conv1 = padded(block.conv1.conv)  # type: ignore[union-attr, arg-type]
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    original, model = trained_network(given.network), rewritten(trained_network(given.network))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), original(images), rtol=1e-4, atol=1e-3)
    export(model, images, given.out, "torchscript")


if __name__ == "__main__":
    main()
