"""Small transformers: positions, class tokens, tokens and masks, norms before and behind, attention in one operator and in its parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A block with the norms in front, as in ViT and GPT; attention by torch's operator."""

    def __init__(self, size: int, num_heads: int, is_causal: bool = False) -> None:
        super().__init__()
        self.num_heads, self.is_causal = num_heads, is_causal
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.proj = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.fc1, self.fc2 = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.num_heads, size // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, size))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Patches of images [1, 8, 8], a class token, positions."""

    def __init__(self, size: int = 32, depth: int = 2, num_classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, size, 2, 2)
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, size) * 0.02), nn.Parameter(torch.randn(1, 17, size) * 0.02)
        self.blocks = nn.Sequential(*[Block(size, 4) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Bert(nn.Module):
    """Tokens and a mask of those that count; the norms behind the sums, attention in its parts, the mask added as BERT does it."""

    def __init__(self, num_tokens: int = 50, length: int = 12, size: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions, self.kinds = nn.Embedding(num_tokens, size), nn.Embedding(length, size), nn.Embedding(2, size)
        self.norm = nn.LayerNorm(size)
        self.layers = nn.ModuleList([BertLayer(size) for _ in range(depth)])
        self.pooler, self.head = nn.Linear(size, size), nn.Linear(size, 3)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        x = self.tokens(tokens) + self.kinds(torch.zeros_like(tokens)) + self.positions(places)
        x = self.norm(x)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class Gpt(nn.Module):
    """Tokens, each of which sees those before it; the scores of the next one for all of them."""

    def __init__(self, num_tokens: int = 50, length: int = 12, size: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(num_tokens, size), nn.Embedding(length, size)
        self.blocks = nn.Sequential(*[Block(size, 2, is_causal=True) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, num_tokens, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class BertLayer(nn.Module):
    def __init__(self, size: int, num_heads: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.dense = (nn.Linear(size, size) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.fc1, self.fc2, self.dropout = nn.Linear(size, 2 * size), nn.Linear(2 * size, size), nn.Dropout(0.1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / query.shape[-1] ** 0.5 + mask
        mixed = torch.matmul(self.dropout(scores.softmax(-1)), value).permute(0, 2, 1, 3).contiguous()
        x = self.norm1(x + self.dropout(self.dense(mixed.view(*mixed.shape[:-2], -1))))
        return self.norm2(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))
