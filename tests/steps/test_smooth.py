"""SmoothQuant against equation (4) by hand; the network computes what it computed, wherever the division goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError, RecipeError
from halfstep.graph.capture import capture
from halfstep.graph.edit import named_state, tensor_named
from halfstep.graph.names import operator_name
from halfstep.graph.run import run
from halfstep.graph.statistics import Statistics
from halfstep.steps import Context, PlaceQuantizers, Scheme, Smooth

SIZE = 12


def outliers(generator: torch.Generator, *shape: int) -> Tensor:
    """The third channel is fifty times as large as the others."""
    x = torch.randn(*shape, SIZE, generator=generator)
    x[..., 2] *= 50
    return x


class PreNorm(nn.Module):
    """The normalized tensor goes to linear layers alone."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.q, self.v, self.last = norm, nn.Linear(SIZE, 8), nn.Linear(SIZE, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        found: Tensor = self.last(torch.sigmoid(self.q(x)) * self.v(x))
        return found


class PostNorm(nn.Module):
    """The sum reads it too, as in BERT."""

    def __init__(self, norm: nn.Module | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm or nn.LayerNorm(SIZE), nn.Linear(SIZE, 20), nn.Linear(20, SIZE)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(x))
        found: Tensor = x + self.dropout(self.down(nn.functional.gelu(self.up(x))))
        return found


class WrittenOut(nn.Module):
    """An RMS norm as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(SIZE) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(SIZE, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(torch.relu(self.first(x)))
        return found


def layer_norm(has_bias: bool = True) -> nn.LayerNorm:
    norm = nn.LayerNorm(SIZE, bias=has_bias)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(SIZE) + 0.5)
        if has_bias:
            norm.bias.copy_(torch.randn(SIZE))
    return norm


NETWORKS = {
    "layer norm": lambda: PreNorm(layer_norm()),
    "layer norm without bias": lambda: PreNorm(layer_norm(has_bias=False)),
    "layer norm without weights": lambda: PreNorm(nn.LayerNorm(SIZE, elementwise_affine=False)),
    "rms norm": lambda: PreNorm(nn.RMSNorm(SIZE)),
    "rms norm written out": lambda: PreNorm(WrittenOut()),
    "post-norm": PostNorm,
    "post-norm, dropout": lambda: PostNorm(layer_norm(), dropout=0.5),
    "post-norm, written out": lambda: PostNorm(WrittenOut()),
    "chain": Chain,
    "nothing in front": lambda: nn.Linear(SIZE, 5),
}


def smoothed(model: nn.Module, x: Tensor, **options: object) -> tuple[GraphModule, GraphModule, Context]:
    """(the captured network, the smoothed one, the context with its notes)."""
    before, after = capture(model, (x,)), capture(model, (x,))
    context = Context(Scheme(), Statistics("x"), torch.Generator(), batches=lambda: [(part,) for part in x.split(5)])
    return before, Smooth.from_options(options).apply(after, context), context  # type: ignore[attr-defined]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0, "least_error"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_network_computes_what_it_computed(name: str, alpha: object, generator: torch.Generator) -> None:
    """On inputs it was not smoothed on. In float32 each product of up to 20 terms may move by 20 units in the last place of its largest
    term, and factors of up to 50 ** 1 do not change that: relative to the outputs 1e-5.
    """
    torch.manual_seed(1)
    model, x = NETWORKS[name]().eval(), outliers(generator, 16, 3)
    _, after, _ = smoothed(model, x, alpha=alpha)
    other = outliers(generator, 7, 3)
    with torch.no_grad():
        expected = model(other)
    assert float((run(after, (other,)) - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("name", "num_within", "num_copies", "num_inserted"),
    [
        ("layer norm", 1, 0, 1),  # `last` reads a product: a division
        ("layer norm without bias", 1, 0, 1),
        ("layer norm without weights", 0, 0, 2),
        ("rms norm", 1, 0, 1),
        ("rms norm written out", 1, 0, 1),
        ("post-norm", 0, 1, 1),
        ("post-norm, dropout", 0, 1, 1),
        ("post-norm, written out", 0, 1, 1),
        ("chain", 1, 0, 1),
        ("nothing in front", 0, 0, 1),
    ],
)
def test_where_the_division_goes(name: str, num_within: int, num_copies: int, num_inserted: int, generator: torch.Generator) -> None:
    torch.manual_seed(1)
    model, x = NETWORKS[name]().eval(), outliers(generator, 16, 3)
    before, after, context = smoothed(model, x)
    assert _count(after, "div") == num_inserted
    where = f"{num_within} times within what writes them, {num_copies} times within a copy of it, {num_inserted} times by a division"
    assert where in context.notes[0]
    _, without, _ = smoothed(model, x, insert=False)
    assert _count(without, "div") == 0
    norms = ("layer_norm", "rms_norm", "mul")
    assert _count(without, *norms) == _count(before, *norms) + num_copies
    names = [str(node.meta["name"]) for node in after.graph.nodes if node.op.startswith("call")]
    assert len(names) == len(set(names))


def _count(graph: GraphModule, *names: str) -> int:
    return sum(operator_name(node) in names for node in graph.graph.nodes)


def test_a_norm_that_a_sum_reads_as_well_has_two_grids(generator: torch.Generator) -> None:
    """The addend keeps its large channel, on a grid of 16 bits; the linear layer reads the smoothed copy in 8. In integers too."""
    torch.manual_seed(1)
    model, x = NETWORKS["post-norm, dropout"]().eval(), torch.randn(64, 3, SIZE, generator=generator)
    with torch.no_grad():
        model.norm.weight[2] = 50.0
    shipped = hs.Recipe.load("transformer-int8")
    recipe = shipped.model_copy(update={"scheme": shipped.scheme.model_copy(update={"inputs": "uint16"})})
    result = hs.quantize(model, x, recipe)
    grids = {name: quantizer.grid.type_name for name, quantizer in zoo.quantizers_of(result.model).items()}
    assert grids["dropout:smoothed"] == "uint8" and grids["dropout"] == "uint16" == grids["down"]
    program = hs.lower(result)
    kinds = [operator.kind for operator in program.operators]
    assert kinds.count("layer_norm") == 2 and result.record.program is not None and result.record.program.max_difference <= 1


def test_the_factors_are_those_of_equation_4(generator: torch.Generator) -> None:
    """Both layers that read the normalized tensor have one s, from the larger of their weights."""
    torch.manual_seed(1)
    model, x, alpha = PreNorm(layer_norm()).eval(), outliers(generator, 16, 3), 0.7
    _, after, _ = smoothed(model, x, alpha=alpha)
    with torch.no_grad():
        largest = model.norm(x).abs().flatten(0, 1).amax(0)
        meeting = torch.maximum(model.q.weight.abs().amax(0), model.v.weight.abs().amax(0))
        s = largest**alpha / meeting ** (1 - alpha)
        changed = named_state(after)
        torch.testing.assert_close(changed["norm.weight"], model.norm.weight / s, rtol=1e-6, atol=0)
        torch.testing.assert_close(changed["norm.bias"], model.norm.bias / s, rtol=1e-6, atol=0)
        for layer in ("q", "v"):
            torch.testing.assert_close(changed[f"{layer}.weight"], getattr(model, layer).weight * s, rtol=1e-6, atol=0)


def test_at_one_half_both_are_equally_large(generator: torch.Generator) -> None:
    torch.manual_seed(1)
    model, x = nn.Linear(SIZE, 5).eval(), outliers(generator, 32)
    _, after, _ = smoothed(model, x)
    changed = named_state(after)
    activation = (x / changed["linear.smoothing"]).abs().amax(0)
    torch.testing.assert_close(activation, changed["weight"].abs().amax(0), rtol=1e-5, atol=0)


def test_a_channel_without_values_keeps_its_scale(generator: torch.Generator) -> None:
    torch.manual_seed(1)
    model, x = nn.Linear(SIZE, 5).eval(), outliers(generator, 32)
    x[:, 4] = 0
    with torch.no_grad():
        model.weight[:, 7] = 0
    _, after, _ = smoothed(model, x)
    factor = tensor_named(after, "linear.smoothing")
    assert factor[4] == factor[7] == 1 and bool(((factor > 0) & torch.isfinite(factor)).all())


@pytest.mark.parametrize("has_norm", [False, True])
def test_outliers_cost_less(has_norm: bool, generator: torch.Generator) -> None:
    """int8 weights and activations, one channel of the input fifty times the others: a quarter of the error is left at most."""
    torch.manual_seed(1)
    model = nn.Sequential(*([nn.LayerNorm(SIZE)] if has_norm else []), nn.Linear(SIZE, 40)).eval()
    x = torch.randn(64, 3, SIZE, generator=generator) if has_norm else outliers(generator, 64, 3)
    if has_norm:
        with torch.no_grad():
            model[0].weight[2] = 50.0
    plain = hs.Recipe.load("int8").model_copy(update={"steps": ("place_quantizers", {"calibrate": {"activations": "min_max"}}, "round")})
    smooth = plain.model_copy(update={"steps": ("smooth", *plain.steps)})
    with torch.no_grad():
        exact = model(x)
        errors = [float((hs.quantize(model, x, recipe).model(x) - exact).square().mean()) for recipe in (plain, smooth)]
    assert errors[1] < 0.25 * errors[0]


def test_a_division_has_an_integer_form(generator: torch.Generator) -> None:
    """A table for each channel, of GELU and the division behind it."""
    torch.manual_seed(1)
    shipped = hs.Recipe.load("smooth-w8a8")
    recipe = shipped.model_copy(update={"scheme": shipped.scheme.model_copy(update={"inputs": "uint8"})})
    result = hs.quantize(PostNorm().eval(), torch.randn(32, 3, SIZE, generator=generator), recipe)
    program = hs.lower(result)
    tables = [operator.table for operator in program.operators if operator.kind == "lookup"]  # type: ignore[attr-defined]
    assert [len(table) for table in tables] == [20] and result.record.program is not None
    assert result.record.program.max_difference <= 1


def test_the_shipped_recipe_is_exported(tmp_path: object, generator: torch.Generator) -> None:
    torch.manual_seed(1)
    result = hs.quantize(PostNorm().eval(), torch.randn(32, 3, SIZE, generator=generator), "smooth-w8a8")
    check = hs.export.onnx(result, tmp_path / "model.onnx")  # type: ignore[operator]
    assert check.max_code_difference <= check.bound and check.num_edges > 0


def test_too_late_and_without_data(generator: torch.Generator) -> None:
    model, x = nn.Linear(SIZE, 5).eval(), outliers(generator, 8)
    context = zoo.context()
    with pytest.raises(CalibrationError, match="at least one batch"):
        Smooth().apply(capture(model, (x,)), context)
    with pytest.raises(RecipeError, match="put it before 'place_quantizers'"):
        Smooth().apply(PlaceQuantizers().apply(capture(model, (x,)), context), context)
    x[3, 1] = torch.nan
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        smoothed(model, x)
