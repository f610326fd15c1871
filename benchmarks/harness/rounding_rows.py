"""The rows of the rounding benchmark: which script makes them, in which environment, with which options, and what the reader must know."""

from dataclasses import dataclass

from harness.settings import SETTINGS
from harness.tools import AIMET, BREVITAS, MCT, OWN

NETWORKS = ("resnet20", "resnet56", "resnet8_mlperf", "nin")
MAIN = ("resnet20",)
FLOAT_SETTING = "w4_tensor"  # under which the float row is stored, once a network; bits mean nothing to it
FULL_ITERATIONS = 10_000  # what the paper runs; rows with fewer are also given scaled to it


@dataclass(frozen=True)
class Row:
    """options: arguments of ``script`` in peers/. networks: where it runs unasked. is_long: only with ``--long`` or by name."""

    name: str
    script: str
    environment: str
    options: tuple[str, ...]
    note: str
    networks: tuple[str, ...] = NETWORKS
    settings: tuple[str, ...] = tuple(SETTINGS)
    is_long: bool = False


def _own(method: str, note: str, options: str = "{}", name: str | None = None, is_long: bool = False) -> Row:
    arguments = ("--method", method, "--options", options)
    return Row(name or f"halfstep_{method}", "halfstep_rounding.py", OWN, arguments, note, is_long=is_long)


def _aimet(name: str, options: str, note: str, networks: tuple[str, ...] = MAIN, is_long: bool = False) -> Row:
    arguments = tuple(f"--method {options}".split())
    return Row(f"aimet_{name}", "aimet_rounding.py", AIMET, arguments, note, networks=networks, is_long=is_long)


def _brevitas(name: str, options: str, note: str, is_long: bool = False) -> Row:
    arguments = tuple(f"--method {options}".split())
    return Row(f"brevitas_{name}", "brevitas_rounding.py", BREVITAS, arguments, note, networks=MAIN, is_long=is_long)


def _mct(name: str, options: str, note: str, networks: tuple[str, ...] = NETWORKS) -> Row:
    return Row(f"mct_{name}", "mct_rounding.py", MCT, tuple(f"--method {options}".split()), note, networks=networks)


ROWS = {
    row.name: row
    for row in (
        Row("float", "float_rounding.py", OWN, ("--method", "float"), "the trained network", settings=(FLOAT_SETTING,)),
        _own("nearest", "scales by least squared error"),
        _own("gptq", "GPTQ as published: symmetric target, bias untouched"),
        _own("coordinate_descent", "cyclic coordinate descent from nearest"),
        _own("lattice", "its default effort"),
        Row(
            "halfstep_lattice_wide",
            "halfstep_rounding.py",
            OWN,
            ("--method", "lattice", "--wide"),
            "the network's input and the operands of additions at 8 bits (recipe lattice-w4a4); the peers leave additions in float",
            settings=("w4a4",),
        ),
        Row(
            "halfstep_lattice_balanced",
            "halfstep_rounding.py",
            OWN,
            ("--method", "lattice", "--balance"),
            "behind balance_channels",
            settings=("w4a8", "w4a4"),
        ),
        _own("adaround", "1,000 iterations", '{"num_iterations": 1000}', "halfstep_adaround_1000"),
        _own("adaround", "10,000 iterations, as in the paper", '{"num_iterations": 10000}', is_long=True),
        _own(
            "adaround",
            "10,000 iterations on 16 random output positions of each image",
            '{"num_iterations": 10000, "num_positions": 16}',
            "halfstep_adaround_positions",
            is_long=True,
        ),
        _own("ste", "straight-through, 1,000 iterations", '{"num_iterations": 1000}', "halfstep_ste_1000"),
        _aimet("nearest", "nearest", "its defaults: smallest and largest value", NETWORKS),
        _aimet("sqnr", "sqnr", "nearest, ranges by its SQNR search", NETWORKS),
        _aimet("cle_bc", "cle_bc", "cross-layer equalization; the bias correction is the benchmark's, AIMET 2.42 has none"),
        _aimet("seq_mse", "seq_mse", "sequential MSE, 20 candidates"),
        _aimet("adaround_1000", "adaround --iterations 1000", "AdaRound, 1,000 iterations"),
        _aimet("adaround", "adaround --iterations 10000", "AdaRound, 10,000 iterations", is_long=True),
        _aimet("adaround_10", "adaround --iterations 10", "AdaRound, 10 iterations: for its cost on large networks", is_long=True),
        _brevitas("nearest", "nearest", "least-squares scales, graph equalization, bias correction"),
        _brevitas("gptq", "gptq", "the same with GPTQ"),
        _brevitas("gpfq", "gpfq", "the same with GPFQ"),
        _brevitas("learned_1000", "learned --iterations 1000", "the same with learned round, 1,000 iterations a layer", is_long=True),
        _mct("ptq", "ptq", "its defaults: least-squares thresholds, bias correction"),
        _mct("gptq", "gptq --epochs 5", "gradient-based, 5 epochs, no Hessian weights", MAIN),
    )
}
QUICK_ROWS = ("float", "halfstep_nearest", "halfstep_lattice")
QUICK_SETTINGS = ("w4_tensor", "w2_channel")
