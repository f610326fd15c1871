"""The operators of an integer program, one file each: what they hold, and what exactly they compute."""

from halfstep.integer.operators.abstract import INT32, OPERATORS, AbstractMovement, AbstractOperator, AbstractRequantized, Values
from halfstep.integer.operators.add import Add
from halfstep.integer.operators.argmax import Argmax
from halfstep.integer.operators.average_pool import AveragePool
from halfstep.integer.operators.concat import Concat
from halfstep.integer.operators.constant import Constant
from halfstep.integer.operators.conv import Conv
from halfstep.integer.operators.conv_transpose import ConvTranspose
from halfstep.integer.operators.embedding import Embedding
from halfstep.integer.operators.layer_norm import LayerNorm
from halfstep.integer.operators.linear import Linear
from halfstep.integer.operators.lookup import Lookup
from halfstep.integer.operators.matmul import Matmul
from halfstep.integer.operators.max_pool import MaxPool
from halfstep.integer.operators.mean import Mean
from halfstep.integer.operators.movement import Copy, Gather, Pad, Reshape
from halfstep.integer.operators.mul import Mul
from halfstep.integer.operators.requantize import Requantize
from halfstep.integer.operators.softmax import Softmax

__all__ = [
    "INT32",
    "OPERATORS",
    "AbstractMovement",
    "AbstractOperator",
    "AbstractRequantized",
    "Add",
    "Argmax",
    "AveragePool",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "Copy",
    "Embedding",
    "Gather",
    "LayerNorm",
    "Linear",
    "Lookup",
    "Matmul",
    "MaxPool",
    "Mean",
    "Mul",
    "Pad",
    "Requantize",
    "Reshape",
    "Softmax",
    "Values",
]
