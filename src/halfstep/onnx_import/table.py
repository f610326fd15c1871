"""All operators that are read, by name."""

from __future__ import annotations

from halfstep.onnx_import.activations import ACTIVATIONS
from halfstep.onnx_import.attention import ATTENTION
from halfstep.onnx_import.call import Translation
from halfstep.onnx_import.convolution import CONVOLUTION
from halfstep.onnx_import.elementwise import ELEMENTWISE
from halfstep.onnx_import.indexing import INDEXING
from halfstep.onnx_import.movement import MOVEMENT
from halfstep.onnx_import.normalization import NORMALIZATION
from halfstep.onnx_import.pooling import POOLING
from halfstep.onnx_import.products import PRODUCTS
from halfstep.onnx_import.reduction import REDUCTION
from halfstep.onnx_import.resize import RESIZE

OPERATORS: dict[str, Translation] = (
    ELEMENTWISE | ACTIVATIONS | CONVOLUTION | POOLING | MOVEMENT | INDEXING | REDUCTION | NORMALIZATION | PRODUCTS | RESIZE | ATTENTION
)
"""Operator -> its translation."""
