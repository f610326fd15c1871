"""The models of the coverage benchmark: a name a row, and how it is built. Free of torch, so that the driver stays small.

timm: of every module of ``timm.models`` the smallest network by parameters, and some more where a module holds several families. The size
is the smallest that the network takes; giants get two of their blocks. torchvision: one small network a family; of detectors the network up
to the heads, for what follows (the boxes, non-maximum suppression) is no network. transformers: small configurations. onnx: some of these,
written by PyTorch's exporter and read back.
"""

import ast
from dataclasses import dataclass, field
from math import prod
from typing import Any

STAGES = ("build", "torch.onnx", "import", "capture", "quantize", "simulate", "export", "runtime", "lower")
"""In this order; "torch.onnx" and "import" only for models that go through an ONNX file, "runtime": equality in ONNX Runtime."""
SUITES = ("timm", "torchvision", "transformers", "onnx")
_MANY_VALUES = 1_000_000  # of one input: with 8 films of 16 x 224 x 224 mvit_v1_b takes 15 GB and a quarter of an hour


@dataclass(frozen=True)
class Model:
    """suite: where ``source`` comes from. shape: of one input. through_onnx: read back from a file of PyTorch's exporter."""

    suite: str
    source: str
    shape: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    through_onnx: bool = False

    @property
    def num_samples(self) -> int:
        """How many inputs it gets: fewer where one is a film at full size."""
        return 2 if prod(self.shape) > _MANY_VALUES else 8


# family, model, size, options
_TIMM = """
beit beit_base_patch16_224 64 img_size=64 depth=2
byoanet eca_halonext26ts 256
byoanet lambda_resnet26t 256
byobnet mobileone_s1 64
byobnet repvgg_a0 64
byobnet gernet_s 64
byobnet eca_resnext26ts 64
cait cait_xxs24_224 64 img_size=64
coat coat_tiny 64 img_size=64
convit convit_tiny 64 img_size=64
convmixer convmixer_768_32 64
convnext convnext_zepto_rms 64
convnext convnextv2_atto 64
cpubone cpubone_nano 64
crossvit crossvit_tiny_240 64
csatv2 csatv2 64
cspnet cs3darknet_focus_s 64
cspnext cspnext_tiny 64
davit davit_tiny 64
deepseek_vit deepseek_vit_412m 112 depth=2
deit deit_tiny_patch16_224 64 img_size=64
deit deit_tiny_distilled_patch16_224 64 img_size=64
densenet densenet121 64
dla dla46x_c 64
dpn dpn48b 64
edgenext edgenext_xx_small 64
efficientformer efficientformer_l1 224
efficientformer_v2 efficientformerv2_s0 64 img_size=64
efficientnet mobilenetv2_035 64
efficientnet mnasnet_small 64
efficientnet tinynet_e 64
efficientnet mixnet_s 64
efficientnet efficientnet_lite0 64
efficientnet tf_efficientnetv2_b0 64
efficientvim efficientvim_m1 64
efficientvit_mit efficientvit_b0 64
efficientvit_msra efficientvit_m0 64
eva vit_tiny_patch16_dinov3_qkvb 64
eva eva02_tiny_patch14_224 56 img_size=56
fasternet fasternet_t0 64
fastvit fastvit_t8 64
focalnet focalnet_tiny_srf 64
gcvit gcvit_xxtiny 64 img_size=64
gemma4_vit gemma4_vit_167m 64 depth=2
ghostnet ghostnet_050 64
ghostnet ghostnetv2_100 64
ghostnet ghostnetv3_050 64
hardcorenas hardcorenas_b 64
hgnet hgnetv2_b0 64
hiera hiera_tiny_224 64 img_size=64
hieradet_sam2 sam2_hiera_tiny 64
hrnet hrnet_w18_small 64
iformer iformer_t 64
inception_next inception_next_atto 64
inception_resnet_v2 inception_resnet_v2 96
inception_v3 inception_v3 96
inception_v4 inception_v4 96
lcnetv2 lcnetv2_small 64
levit levit_128s 64 img_size=64
lowformer lowformer_b0 64
mambaout mambaout_femto 64
maxxvit maxvit_pico_rw_256 64 img_size=64
maxxvit coatnet_pico_rw_224 64 img_size=64
metaformer poolformerv2_s12 64
metaformer convformer_s18 64
metaformer caformer_s18 64
mlp_mixer gmlp_ti16_224 64 img_size=64
mlp_mixer resmlp_12_224 64 img_size=64
mlp_mixer mixer_s16_224 64 img_size=64
mobilenetv3 mobilenetv3_small_050 64
mobilenetv3 lcnet_035 64
mobilenetv3 mobilenetv4_conv_small_035 64
mobilenetv3 mobilenetv4_hybrid_medium 64
mobilenetv5 mobilenetv5_base 64
mobilevit mobilevit_xxs 64
mobilevit mobilevitv2_050 64
mvitv2 mvitv2_tiny 64
naflexvit naflexvit_base_patch16_parfac_gap 64 depth=2
nasnet nasnetalarge 64
nest nest_tiny 64 img_size=64
nextvit nextvit_small 64
nfnet nf_regnet_b0 64
nfnet dm_nfnet_f0 64
pit pit_ti_224 64 img_size=64
pnasnet pnasnet5large 64
pvt_v2 pvt_v2_b0 64
qwen3_vit qwen3_vit_88m 64 depth=2
rdnet rdnet_tiny 64
regnet regnetx_002 64
regnet regnety_002 64
repghost repghostnet_050 64
repvit repvit_m1 64
res2net res2next50 64
resnest resnest14d 64
resnet resnet10t 64
resnet resnet18 64
resnetv2 resnetv2_18 64
rexnet rexnet_100 64
selecsls selecsls42 64
senet legacy_seresnet18 64
sequencer sequencer2d_s 64
shvit shvit_s1 64
sknet skresnet18 64
starnet starnet_s050 64
swiftformer swiftformer_xs 64
swin_transformer swin_tiny_patch4_window7_224 64 img_size=64
swin_transformer_v2 swinv2_tiny_window16_256 64 img_size=64
swin_transformer_v2_cr swinv2_cr_tiny_224 64 img_size=64
tiny_vit tiny_vit_5m_224 64
tnt tnt_s_legacy_patch16_224 64 img_size=64
tresnet tresnet_m 64
twins twins_svt_small 64
twins twins_pcpvt_small 64
vgg vgg11 64
visformer visformer_tiny 64 img_size=64
vision_transformer vit_tiny_patch16_224 64 img_size=64
vision_transformer_hybrid vit_tiny_r_s16_p8_224 64 img_size=64
vision_transformer_relpos vit_srelpos_small_patch16_224 64 img_size=64
vision_transformer_sam samvit_base_patch16_224 64 depth=2
vitamin vitamin_small_224 64 img_size=64
volo volo_d1_224 64 img_size=64
vovnet ese_vovnet19b_slim_dw 64
xception legacy_xception 64
xception_aligned xception41p 64
xcit xcit_nano_12_p8_224 64
"""
# model, size, options
_TORCHVISION = """
alexnet 64
convnext_tiny 32
densenet121 32
efficientnet_b0 32
efficientnet_v2_s 32
googlenet 64
inception_v3 96
maxvit_t 224
mnasnet0_5 32
mobilenet_v2 32
mobilenet_v3_small 32
regnet_x_400mf 32
regnet_y_400mf 32
resnet18 32
resnext50_32x4d 32
wide_resnet50_2 32
shufflenet_v2_x0_5 32
squeezenet1_1 64
swin_t 64
swin_v2_t 64
vgg11 32
vit_b_32 64 image_size=64
fcn_resnet50 32
deeplabv3_mobilenet_v3_large 64
lraspp_mobilenet_v3_large 64
ssdlite320_mobilenet_v3_large 320
ssd300_vgg16 300
retinanet_resnet50_fpn 64
fcos_resnet50_fpn 64
fasterrcnn_mobilenet_v3_large_320_fpn 64
r3d_18 8x32x32
mc3_18 8x32x32
r2plus1d_18 8x32x32
s3d 16x224x224
swin3d_t 8x64x64
mvit_v1_b 16x224x224
raft_small 128
"""
_TRANSFORMERS = "bert distilbert gpt2 llama vit swin whisper_encoder t5_encoder clip"
_THROUGH_ONNX = """
timm/resnet10t timm/mobilenetv3_small_050 timm/tinynet_e timm/regnety_002 timm/ghostnet_050 timm/convnext_zepto_rms
timm/vit_tiny_patch16_224 timm/swin_tiny_patch4_window7_224
timm/mobilevit_xxs timm/edgenext_xx_small timm/repghostnet_050 timm/starnet_s050 timm/levit_128s
timm/pvt_v2_b0 timm/xcit_nano_12_p8_224 timm/coatnet_pico_rw_224 timm/hgnetv2_b0 timm/densenet121 timm/dla46x_c timm/ese_vovnet19b_slim_dw
torchvision/squeezenet1_1 torchvision/shufflenet_v2_x0_5 torchvision/googlenet torchvision/mobilenet_v2 torchvision/vit_b_32
torchvision/lraspp_mobilenet_v3_large torchvision/s3d transformers/bert transformers/gpt2 transformers/llama transformers/clip
transformers/whisper_encoder transformers/t5_encoder
"""


def _models() -> dict[str, Model]:
    found: dict[str, Model] = {}
    for line in _TIMM.split("\n")[1:-1]:
        family, source, size, *options = line.split()
        found[f"timm/{source}"] = Model("timm", source, _shape(size), _options(options), family)
    for line in _TORCHVISION.split("\n")[1:-1]:
        source, size, *options = line.split()
        found[f"torchvision/{source}"] = Model("torchvision", source, _shape(size), _options(options))
    for source in _TRANSFORMERS.split():
        found[f"transformers/{source}"] = Model("transformers", source)
    for name in _THROUGH_ONNX.split():
        whole = found[name]
        found[f"onnx/{name.partition('/')[2]}"] = Model(whole.suite, whole.source, whole.shape, whole.options, whole.family, True)
    return found


def _shape(size: str) -> tuple[int, ...]:
    """ "64" for images of 64 x 64 pixels, "8x32x32" for films."""
    axes = [int(part) for part in size.split("x")]
    return (3, *(axes * 2 if len(axes) == 1 else axes))


def _options(written: list[str]) -> dict[str, Any]:
    return {name: ast.literal_eval(value) for name, _, value in (option.partition("=") for option in written)}


MODELS = _models()
