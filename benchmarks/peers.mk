# Environments of the tools that the benchmarks run beside halfstep: one virtual environment a tool, so that their requirements
# never meet halfstep's. Included by the main Makefile; every command runs from the project root.
#   make bench-nncf-env                                      .venv-nncf
#   make bench-nncf-env NNCF_VENV=/some/folder               elsewhere; tell the benchmark with --venv nncf=/some/folder
#   make bench-nncf-env PEER_PIP_FLAGS="--extra-index-url …"   e.g. an index that holds CPU-only torch wheels
# ONNX Runtime's own quantizer needs no environment: it is part of onnxruntime, which halfstep's environment already has.
PEER_PYTHON ?= python3
PEER_PIP_FLAGS ?=
NNCF_VENV ?= .venv-nncf
NNCF_CONSTRAINTS := benchmarks/constraints-nncf.txt

.PHONY: bench-nncf-env bench-peer-envs bench-clean-envs

bench-peer-envs: bench-nncf-env

bench-nncf-env: $(NNCF_VENV)/.complete

$(NNCF_VENV)/.complete: $(NNCF_CONSTRAINTS)
	$(PEER_PYTHON) -m venv $(NNCF_VENV)
	$(NNCF_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $(NNCF_CONSTRAINTS) \
		nncf torch onnx onnxruntime onnxscript safetensors torchao
	$(NNCF_VENV)/bin/python -c "import nncf, onnx, onnxruntime, torch, torchao"
	NNCF_CI=1 NNCF_EXTENSION_LOAD_TIMEOUT=0 $(NNCF_VENV)/bin/python -c \
		"from nncf.torch.quantization.extensions import QuantizedFunctionsCPU; QuantizedFunctionsCPU.get('Quantize_forward')"
	touch $@

bench-clean-envs:
	rm -rf $(NNCF_VENV)
