"""Peak memory of one ONNX file in one runtime, in a process that does nothing else.

Run by its path, as a script: importing halfstep would load PyTorch, whose memory is not the file's.

    python fresh_process.py onnxruntime model.onnx inputs.npz      prints {"before": bytes, "peak": bytes}

before: once the runtime is imported. peak: after the file was loaded and run once, on one thread.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np


def peak_bytes() -> int:
    """The most memory this program has had resident; what its parent had before it started it is not counted where Linux tells."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if found:
            return int(found[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Load and run the file."""
    runtime, model, inputs = sys.argv[1:]
    feeds = dict(np.load(inputs))
    if runtime == "onnxruntime":
        import onnxruntime

        before = peak_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, feeds)
    else:
        import openvino

        before = peak_bytes()
        openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})(feeds)
    sys.stdout.write(json.dumps({"before": before, "peak": peak_bytes()}) + "\n")


if __name__ == "__main__":
    main()
