"""Transformers built from small configurations, without weights of anyone's, and inputs for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LENGTH, VOCABULARY, IMAGE = 16, 500, 32
_SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_TEXT: dict[str, Any] = _SIZES | {"vocab_size": VOCABULARY, "max_position_embeddings": 64}


class _Adapted(nn.Module):
    """A network that is called by the names of its inputs and returns the named outputs, as tensors."""

    def __init__(self, network: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], **options: Any) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs, self.options = network, inputs, outputs, options

    def forward(self, *inputs: Tensor) -> Any:
        found = self.network(**dict(zip(self.inputs, inputs, strict=True)), **self.options)
        results = tuple(getattr(found, name) for name in self.outputs)
        return results[0] if len(results) == 1 else results


class _One(_Adapted):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


class _Two(_Adapted):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return super().forward(x, y)


class _Three(_Adapted):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Any:
        return super().forward(x, y, z)


_WORDS = ("input_ids", "attention_mask")
_STATE = ("last_hidden_state",)


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return _Two(BertModel(BertConfig(**_TEXT)), _WORDS, ("last_hidden_state", "pooler_output"))


def _distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    sizes = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
    return _Two(DistilBertModel(DistilBertConfig(**sizes)), _WORDS, _STATE)


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
    return _Two(GPT2LMHeadModel(GPT2Config(**sizes)), _WORDS, ("logits",), use_cache=False)


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _Two(LlamaForCausalLM(LlamaConfig(**_TEXT, num_key_value_heads=2)), _WORDS, ("logits",), use_cache=False)


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return _One(ViTForImageClassification(ViTConfig(**_SIZES, image_size=IMAGE, patch_size=8)), ("pixel_values",), ("logits",))


def _swin() -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(image_size=IMAGE, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return _One(SwinForImageClassification(config), ("pixel_values",), ("logits",))


def _whisper_encoder() -> nn.Module:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from transformers import WhisperConfig

    config = WhisperConfig(d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=128, max_source_positions=32)
    return _One(WhisperEncoder(config), ("input_features",), _STATE)


def _t5_encoder() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=64, d_kv=16, num_layers=2, num_heads=4, d_ff=128, vocab_size=VOCABULARY)
    return _Two(T5EncoderModel(config), _WORDS, _STATE)


def _clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = _TEXT | {"eos_token_id": VOCABULARY - 1, "bos_token_id": VOCABULARY - 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config=_SIZES | {"image_size": IMAGE, "patch_size": 8}, projection_dim=32)
    return _Three(CLIPModel(config), ("input_ids", "pixel_values", "attention_mask"), ("text_embeds", "image_embeds"))


_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "bert": _bert, "distilbert": _distilbert, "gpt2": _gpt2, "llama": _llama, "vit": _vit, "swin": _swin,
    "whisper_encoder": _whisper_encoder, "t5_encoder": _t5_encoder, "clip": _clip,
}  # fmt: skip


def transformer(name: str, num_samples: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and inputs for it: sentences of different lengths, images, sound."""
    network = _NETWORKS[name]()
    words = torch.randint(3, VOCABULARY - 2, (num_samples, LENGTH))
    words[:, -1] = VOCABULARY - 1
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (num_samples, 1))
    mask = (torch.arange(LENGTH) < lengths).long()
    if name == "clip":
        return network, (words, torch.randn(num_samples, 3, IMAGE, IMAGE), mask)
    if name == "whisper_encoder":
        return network, (torch.randn(num_samples, 80, 64),)
    return network, (words, mask) if isinstance(network, _Two) else (torch.randn(num_samples, 3, IMAGE, IMAGE),)
