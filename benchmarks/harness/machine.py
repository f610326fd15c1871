"""Facts without which a figure means nothing: the processor, the versions, the commit."""

import json
import os
import platform
import subprocess
from pathlib import Path

INTEGER_FLAGS = ("avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")
PACKAGES = (
    *("halfstep", "torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy", "numba", "safetensors"),
    *("nncf", "openvino", "aimet-torch", "brevitas", "torchao", "model-compression-toolkit"),
    *("timm", "torchvision", "transformers"),
    *("aidge_core", "aidge_quantization", "aidge_backend_cpu", "aidge_onnx"),
)
_LIST_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def _cpu_field(name: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return ""
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def machine_facts() -> dict[str, object]:
    """Processor model, cores, the integer instructions it has, memory in bytes, operating system."""
    flags = set((_cpu_field("flags") or _cpu_field("features")).split())
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "integer_instructions": [flag for flag in INTEGER_FLAGS if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(python: Path) -> dict[str, str]:
    """Versions of the packages that matter in the environment of the interpreter ``python``."""
    done = subprocess.run([str(python), "-c", _LIST_VERSIONS, *PACKAGES], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def commit(root: Path) -> str | None:
    """The project's commit, with ``+`` when the working tree differs from it; None outside a repository."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
