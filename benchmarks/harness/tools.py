"""The rows of the comparison: which script makes them, in which environment, with which settings, and why those."""

from dataclasses import dataclass

OWN = "halfstep"  # the environment that the benchmark itself runs in
NNCF, AIMET, BREVITAS, TORCHAO, MCT, AIDGE, OPENVINO = "nncf", "aimet", "brevitas", "torchao", "mct", "aidge", "openvino"
MINILM = "minilm"  # halfstep itself, transformers and the sentence encoder
COVERAGE = "coverage"  # halfstep itself, and the libraries whose networks it is tried on
_PEERS = (NNCF, AIMET, BREVITAS, TORCHAO, MCT, AIDGE, OPENVINO, MINILM, COVERAGE)
INSTALL = {OWN: "make bench"} | {peer: f"make bench-{peer}-env" for peer in _PEERS}


@dataclass(frozen=True)
class Tool:
    """One row: ``script`` in peers/, its ``options``, the environment, a line for the reader."""

    name: str
    script: str
    environment: str
    options: tuple[str, ...]
    note: str


def _ort(name: str, options: str, note: str) -> Tool:
    return Tool(name, "ort_static.py", OWN, tuple(options.split()), note)


def _nncf_torch(name: str, options: str, note: str) -> Tool:
    return Tool(name, "nncf_torch.py", NNCF, tuple(options.split()), note)


def _nncf_onnx(name: str, options: str, note: str) -> Tool:
    return Tool(name, "nncf_onnx.py", NNCF, tuple(options.split()), note)


CLAIM = (
    Tool("float", "float_onnx.py", OWN, (), "torch.onnx.export of the trained network"),
    Tool("halfstep", "halfstep_int8.py", OWN, (), "recipe int8, export verified in ONNX Runtime"),
    _ort("ort_default", "--setting default", "quantize_static, every argument at its default (int8 activations, weights per tensor)"),
    _ort("ort_best", "--setting best", "quant_pre_process; uint8 activations, int8 weights per channel, MinMax"),
    _nncf_torch(
        "nncf_torch", "--backend module --fold --batch-size 64", "batch norm folded, nncf.quantize(module), strip, TorchScript export"
    ),
    _nncf_torch("nncf_fx", "--backend fx --batch-size 64", "torch.export, nncf.quantize(graph), torch.onnx.export"),
    _nncf_onnx("nncf_onnx", "", "torch.onnx.export, nncf.quantize(onnx); one image at a time as documented"),
    _nncf_onnx("nncf_onnx_light", "--exporter torchscript --batch-size 64", "its cheapest way: TorchScript export, batches of 64"),
)
PER_TENSOR = (
    Tool("halfstep_tensor", "halfstep_int8.py", OWN, ("--recipe", "int8-per-tensor"), "recipe int8-per-tensor: one scale a weight tensor"),
    Tool("halfstep_dfq", "halfstep_int8.py", OWN, ("--recipe", "dfq"), "recipe dfq: one scale a weight tensor, layers equalized"),
    Tool(
        "halfstep_balanced",
        "halfstep_int8.py",
        OWN,
        ("--recipe", "int8-balanced"),
        "recipe int8-balanced: channels mixed and scaled, GPTQ, biases corrected",
    ),
    Tool(
        "halfstep_balanced_split",
        "halfstep_int8.py",
        OWN,
        ("--recipe", "int8-balanced-split"),
        "the same, noisy channels given twice or three times for a tenth more work",
    ),
    Tool(
        "halfstep_tensor_balanced",
        "halfstep_int8.py",
        OWN,
        ("--recipe", "int8-per-tensor-balanced"),
        "as halfstep_balanced, one scale a weight tensor",
    ),
    _ort("ort_tensor", "--setting best --per-tensor", "as ort_best, one scale a weight tensor"),
)
EXPLORED = (
    _ort("ort_percentile", "--setting best --method Percentile", "as ort_best, Percentile (99.999): keeps every activation in memory"),
    _ort("ort_entropy", "--setting best --method Entropy", "as ort_best, Entropy"),
    _ort("ort_light", "--setting best --exporter torchscript", "as ort_best, TorchScript export"),
    _nncf_torch("nncf_torch_plain", "--backend module", "as nncf_torch, batch norm left in place, one image at a time as documented"),
    _nncf_torch("nncf_fx_single", "--backend fx", "as nncf_fx, one image at a time as documented"),
    _nncf_torch("nncf_fx_mixed", "--backend fx --preset mixed --batch-size 64", "asymmetric activations; batches of 64"),
    _nncf_onnx("nncf_onnx_batch", "--batch-size 64", "as nncf_onnx in batches of 64"),
    _nncf_onnx("nncf_onnx_mixed", "--preset mixed --batch-size 64", "asymmetric activations; batches of 64"),
    _nncf_onnx("nncf_onnx_full", "--full-bias-correction --batch-size 64", "fast_bias_correction=False; batches of 64"),
)
TOOLS = {tool.name: tool for tool in CLAIM + PER_TENSOR + EXPLORED}
CLAIMED, SCALES = tuple(tool.name for tool in CLAIM), tuple(tool.name for tool in PER_TENSOR)
QUICK = ("float", "halfstep", "ort_best", "nncf_onnx_light")
