"""What the torch functions are to a reader of layers: affine, a mere reshape, an activation, a known other use."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

__all__ = [
    "AFFINE",
    "AFFINE_ARGUMENTS",
    "ATTENTION",
    "DROPOUTS",
    "LIKE_ANOTHER",
    "NEW_TENSORS",
    "OTHER_ACTIVATIONS",
    "REORDERS",
    "RESHAPES",
    "TRANSPOSITIONS",
    "UNDERSTOOD",
    "WORDS",
    "Activation",
    "function_name",
]


class Activation(StrEnum):
    """What an affine layer's output goes into. ``OTHER``: one not in this list, or several things at once."""

    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    GELU = "gelu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SILU = "silu"
    SOFTMAX = "softmax"
    OTHER = "other"
    NONE = "none"


def function_name(func: Callable[..., Any]) -> str:
    """The name without underscores: ``relu`` for ``F.relu``, ``torch.relu_`` and ``Tensor.relu`` alike."""
    name: str = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":  # a property such as `.T`
        name = getattr(func, "__self__", func).__name__
    name = name.strip("_")
    return {"iadd": "add", "radd": "add", "imul": "mul", "rmul": "mul"}.get(name, name)


AFFINE = frozenset({"linear", "conv1d", "conv2d", "conv3d"})
AFFINE_ARGUMENTS = ("input", "weight", "bias")
ATTENTION = "multi_head_attention_forward"
# They take a second tensor for its shape or dtype alone.
LIKE_ANOTHER = frozenset({"expand_as", "reshape_as", "to", "type_as", "view_as"})
# They take a tensor for its shape alone.
NEW_TENSORS = frozenset({"empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like"})

RESHAPES = frozenset(
    {
        "flatten",
        "reshape",
        "reshape_as",
        "view",
        "view_as",
        "unflatten",
        "ravel",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "to",
        "float",
        "double",
    }
)
REORDERS = frozenset({"permute", "transpose", "t", "T", "mT", "movedim", "moveaxis", "swapaxes", "swapdims"})
# They may turn a matrix over; whether they do is seen from the result.
TRANSPOSITIONS = REORDERS | {"H", "mH", "adjoint", "swapaxes", "swapdims"}
DROPOUTS = frozenset(
    {"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d"}
)
# What a parameter may go into, together with data, without being a matrix that rows are multiplied by.
UNDERSTOOD = frozenset(
    {
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "prelu",
        "embedding",
        "embedding_bag",
        "add",
        "sub",
        "mul",
        "div",
        "truediv",
        "cat",
        "concat",
        "concatenate",
        "stack",
        "multi_head_attention_forward",
        "where",
    }
)
WORDS = {
    Activation.RELU: "ReLU",
    Activation.LEAKY_RELU: "LeakyReLU",
    Activation.GELU: "GELU",
    Activation.SIGMOID: "Sigmoid",
    Activation.TANH: "Tanh",
    Activation.SILU: "SiLU",
    Activation.SOFTMAX: "Softmax",
}
OTHER_ACTIVATIONS = frozenset(
    {
        "abs",
        "celu",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clip",
        "cos",
        "elu",
        "exp",
        "glu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "log_softmax",
        "logsigmoid",
        "log_sigmoid",
        "maximum",
        "minimum",
        "mish",
        "pow",
        "prelu",
        "relu6",
        "rrelu",
        "selu",
        "sin",
        "softmin",
        "softplus",
        "softshrink",
        "softsign",
        "square",
        "tanhshrink",
        "threshold",
    }
)
