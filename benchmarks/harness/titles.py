"""What networks, tools, settings and rows are called in documents, in the order in which they are shown there."""

NETWORKS = {"resnet20": "ResNet-20", "resnet32": "ResNet-32", "resnet56": "ResNet-56", "resnet8_mlperf": "ResNet-8", "nin": "NiN"}
TOOLS = {
    "float": "float",
    "halfstep": "halfstep",
    "ort_default": "ONNX Runtime, defaults",
    "ort_best": "ONNX Runtime, best setting",
    "nncf_torch": "NNCF, torch module",
    "nncf_fx": "NNCF, torch.export",
    "nncf_onnx": "NNCF, ONNX",
    "nncf_onnx_light": "NNCF, ONNX, cheapest",
}
IMAGENET_NETWORKS = {"mobilenet_v2": "MobileNetV2", "mobilenet_v2_keras": "MobileNetV2 of Keras", "squeezenet1_1": "SqueezeNet 1.1"}
IMAGENET_SHOWN = {
    "float": "float",
    "halfstep": "halfstep, `int8`",
    "halfstep_balanced": "halfstep, `int8-balanced`",
    "halfstep_balanced_split": "halfstep, `int8-balanced-split`",
    "ort_best": "ONNX Runtime, best setting",
    "nncf_torch": "NNCF, torch module",
    "halfstep_tensor": "halfstep, `int8-per-tensor`",
    "halfstep_dfq": "halfstep, `dfq`",
    "halfstep_tensor_balanced": "halfstep, `int8-per-tensor-balanced`",
    "ort_tensor": "ONNX Runtime, one scale a tensor",
}
SETTINGS_SHOWN = {
    "w4_tensor": "W4, per tensor",
    "w4_channel": "W4",
    "w3_channel": "W3",
    "w2_channel": "W2",
    "w4a8": "W4A8",
    "w4a4": "W4A4",
}
ROUNDINGS_SHOWN = {
    "halfstep_nearest": "nearest",
    "halfstep_coordinate_descent": "coordinate descent",
    "halfstep_gptq": "GPTQ",
    "halfstep_lattice": "**lattice**",
    "halfstep_lattice_wide": "lattice, inputs and operands of additions at 8 bits",
    "halfstep_lattice_balanced": "lattice, channels balanced",
    "halfstep_adaround_1000": "AdaRound, 1,000 iterations",
    "halfstep_adaround_positions": "AdaRound, 10,000 iterations, 16 positions",
    "halfstep_adaround": "AdaRound, 10,000 iterations",
    "halfstep_ste_1000": "straight-through, 1,000 iterations",
    "aimet_nearest": "AIMET, nearest",
    "aimet_sqnr": "AIMET, nearest, SQNR ranges",
    "aimet_cle_bc": "AIMET, CLE and bias correction",
    "aimet_seq_mse": "AIMET, sequential MSE",
    "aimet_adaround_1000": "AIMET, AdaRound, 1,000 iterations",
    "brevitas_nearest": "Brevitas, nearest",
    "brevitas_gptq": "Brevitas, GPTQ",
    "brevitas_gpfq": "Brevitas, GPFQ",
    "mct_ptq": "MCT",
    "mct_gptq": "MCT, gradient-based",
}
PROGRAMS_SHOWN = {
    "float": "float network",
    "normalize_fixed_point_32": "W8A8 `normalize`, `fixed_point_32`",
    "normalize_fixed_point_16": "W8A8 `normalize`, `fixed_point_16`",
    "normalize_double_shift": "W8A8 `normalize`, `double_shift`",
    "normalize_single_shift": "W8A8 `normalize`, `single_shift`",
    "normalize_kl": "W8A8 `normalize-kl`",
    "normalize_w4a8": "W4A8 `normalize-w4a4 --activations uint8`",
    "normalize_w4a4": "W4A4 `normalize-w4a4`",
    "lattice_w4a8": "W4A8 `lattice-w4a8`",
    "lattice_w4a4": "W4A4 `lattice-w4a4`",
    "aidge_w8a8_tensor": "Aidge W8A8, per tensor",
    "aidge_w8a8_channel": "Aidge W8A8, per channel",
    "aidge_w8a8_channel_shift": "Aidge W8A8, per channel, single shift",
    "aidge_w4a4_tensor": "Aidge W4A4, per tensor",
    "aidge_w4a4_channel": "Aidge W4A4, per channel",
    "aidge_w4a4_channel_plain": "Aidge W4A4, per channel, no equalization",
}
