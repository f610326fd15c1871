"""Small transformers all the way: float, 8 bits, simulation, ONNX Runtime, integers, C, integer ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import transformers
import zoo
from halfstep.export.c99.native import CompiledProgram
from halfstep.integer import IntegerProgram, quantize_inputs, run


def settled(network: nn.Module) -> nn.Module:
    """Weights and biases as training leaves them: no two alike, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def images() -> tuple[Tensor]:
    return (torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(1)),)


def sentences() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, 13, (48, 1), generator=generator)
    return torch.randint(0, 50, (48, 12), generator=generator), (torch.arange(12) < lengths).long()


def sequences() -> tuple[Tensor]:
    return (torch.randn(48, 6, 16, generator=torch.Generator().manual_seed(3)),)


class Encoder(nn.Module):
    """torch's own layers, which count positions first and put samples and heads along one axis."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


NETWORKS = {
    "vit": (transformers.ViT, images),
    "bert": (transformers.Bert, sentences),
    "gpt": (transformers.Gpt, lambda: sentences()[:1]),
    "torch": (Encoder, sequences),
}
KINDS = {
    "vit": {"conv", "concat", "constant", "layer_norm", "softmax", "matmul", "lookup", "linear", "add"},
    "bert": {"embedding", "layer_norm", "softmax", "matmul", "lookup", "linear", "add"},
    "gpt": {"embedding", "layer_norm", "softmax", "matmul", "lookup", "linear", "add"},
    "torch": {"layer_norm", "softmax", "matmul", "lookup", "linear", "add", "mean"},
}


@pytest.fixture(scope="module", params=NETWORKS)
def result(request: pytest.FixtureRequest) -> tuple[str, hs.Result, tuple[Tensor, ...]]:
    build, inputs = NETWORKS[request.param]
    torch.manual_seed(0)
    given = inputs()
    return request.param, hs.quantize(settled(build()), (given, None), "int8"), given


def test_all_the_way(result: tuple[str, hs.Result, tuple[Tensor, ...]], tmp_path: Path) -> None:
    name, quantized, given = result
    check = hs.export.onnx(quantized, tmp_path / "net.onnx")
    assert check.max_code_difference <= check.bound and check.top1_agreement > 0.95
    program = hs.lower(quantized)
    record = quantized.record.program
    assert record is not None and record.max_difference <= 1
    assert record.num_differing <= 1e-3 * record.num_codes
    assert record.top1_agreement > 0.9
    assert {operator.kind for operator in program.operators} >= KINDS[name]
    _ways_out(program, quantize_inputs(program, given), tmp_path)


def _ways_out(program: IntegerProgram, codes: tuple[Tensor, ...], folder: Path) -> None:
    """C and integer ONNX give the interpreter's codes, from a program that was saved and read again."""
    program.save(folder / "net.safetensors")
    program = IntegerProgram.load(folder / "net.safetensors")
    wanted = run(program, codes)
    hs.export.onnx_integer(program, folder / "integers.onnx", codes)
    hs.export.c(program, folder / "net_c")
    made = CompiledProgram(program, folder / "net_c")(codes)
    assert all(torch.equal(a, b) for a, b in zip(wanted, made, strict=True))


def test_a_mask_hides_what_it_hides() -> None:
    """Tokens behind the end of a sentence change no code of the program's output."""
    torch.manual_seed(0)
    tokens, mask = sentences()
    program = hs.lower(hs.quantize(settled(transformers.Bert()), ((tokens, mask), None), "int8"))
    other = torch.where(mask == 1, tokens, (tokens + 17) % 50)
    one, two = (run(program, quantize_inputs(program, (x, mask)))[0] for x in (tokens, other))
    assert not torch.equal(tokens, other) and torch.equal(one, two)
    assert not torch.equal(one, run(program, quantize_inputs(program, (tokens, torch.ones_like(mask))))[0])


def test_the_recipe_for_transformers_keeps_its_codes_in_integers() -> None:
    """Sums of 16 bits: no operator is off by more than one code of its own grid, and no product has a wide operand."""
    torch.manual_seed(0)
    network, given = settled(transformers.ViT()), images()
    with torch.no_grad():
        for block in network.blocks:  # two channels behind each norm thirty times the rest, and the same function
            block.norm1.weight[:2] *= 30
            block.norm1.bias[:2] *= 30
            block.qkv.weight[:, :2] /= 30
    results = {recipe: hs.quantize(network, given[0], recipe) for recipe in ("int8", "transformer-int8")}
    program = hs.lower(results["transformer-int8"])
    record = results["transformer-int8"].record.program
    assert record is not None and record.max_difference <= 1
    products = [operator for operator in program.operators if operator.kind in ("linear", "matmul", "conv")]
    assert {program.values[name].grid.bits for operator in products for name in operator.inputs} == {8}
    assert {value.grid.type_name for value in program.values.values()} >= {"uint8", "uint16"}
    with torch.no_grad():
        errors = {recipe: float((result.model(*given) - network(*given)).square().mean()) for recipe, result in results.items()}
    assert errors["transformer-int8"] < errors["int8"] / 4  # 17 dB on a trained one; docs/decisions/012


def test_a_softmax_that_is_moved_has_the_same_grid() -> None:
    class Moved(nn.Module):
        """Probabilities with the heads behind, as talking heads and axial attention have them."""

        def __init__(self) -> None:
            super().__init__()
            self.scores, self.values, self.head = nn.Linear(16, 2 * 6), nn.Linear(16, 16), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            weights = self.scores(x).view(-1, 6, 6, 2).softmax(2).permute(0, 3, 1, 2)
            return self.head(weights @ self.values(x).view(-1, 6, 2, 8).transpose(1, 2))

    torch.manual_seed(0)
    result = hs.quantize(Moved(), sequences(), "int8")
    moved = zoo.quantizers_of(result.model)["permute"]
    assert float(moved.scale) == pytest.approx(1 / 255) and float(moved.zero_point) == 0


def test_a_softmax_has_its_grid_whatever_the_data_are() -> None:
    torch.manual_seed(0)
    result = hs.quantize(settled(transformers.ViT()), images()[0], "int8")
    quantizers = {name: module for name, module in zoo.quantizers_of(result.model).items() if name.endswith("softmax")}
    assert len(quantizers) == 2
    assert all(float(module.scale) == pytest.approx(1 / 255) and float(module.zero_point) == 0 for module in quantizers.values())
