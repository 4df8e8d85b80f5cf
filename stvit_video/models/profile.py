"""Count the parameters and FLOPs of a model, with fvcore."""

from typing import Any

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

# Operators that fvcore has no handle for and that multiply no matrices: elementwise arithmetic and
# functions, reductions and poolings, comparisons, indexing, changes of layout. fvcore still warns
# about any other operator, because it may hide real work.
_ELEMENTWISE_OPS = (
    "aten::add",
    "aten::add_",
    "aten::sub",
    "aten::rsub",
    "aten::mul",
    "aten::div",
    "aten::neg",
    "aten::pow",
    "aten::exp",
    "aten::rsqrt",
    "aten::tanh",
    "aten::sigmoid",
    "aten::softmax",
    "aten::gelu",
    "aten::gelu_",
    "aten::silu",
    "aten::hardswish",
    "aten::hardswish_",
    "aten::dropout_",
    "aten::minimum",
    "aten::maximum",
    "aten::sum",
    "aten::mean",
    "aten::amax",
    "aten::max_pool3d",
    "aten::avg_pool3d",
    "aten::adaptive_avg_pool3d",
    "aten::adaptive_max_pool2d",
    "aten::ne",
    "aten::lt",
    "aten::__or__",
    "aten::__xor__",
    "aten::any",
    "aten::argsort",
    "aten::fill_",
    "aten::index_select",
    "aten::index_copy_",
    "aten::scatter_",
    "aten::unfold",
    "aten::unflatten",
    "aten::view_as",
    "aten::meshgrid",
    "aten::pad",
    "aten::repeat",
    "aten::repeat_interleave",
    "aten::tensor_split",
    "aten::linspace",
    "aten::clone",
    "aten::empty_like",
)


def sdpa_multiply_adds(inputs: list[Any], outputs: list[Any]) -> int:
    """Count the multiply-accumulates of attention's two matrix products (an fvcore handle).

    Args:
        inputs: jit values; the first three are queries ``[..., L, E]``, keys ``[..., S, E]`` and
            values ``[..., S, D]``, whose leading dimensions may broadcast.
        outputs: jit values, unused.
    """
    queries, keys, values = (get_shape(value) for value in inputs[:3])
    batch = np.broadcast_shapes(queries[:-2], keys[:-2], values[:-2])
    pairs = int(np.prod(batch, dtype=np.int64)) * queries[-2] * keys[-2]
    return pairs * (queries[-1] + values[-1])


def count_parameters(model: nn.Module) -> int:
    """Count all parameters of ``model``, including frozen ones."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_flops(model: nn.Module, inputs: Tensor) -> int:
    """Count the multiply-accumulates of one forward pass in evaluation mode.

    Papers call this number FLOPs. fvcore warns about operators without a handle.
    """
    analysis = FlopCountAnalysis(model, inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", sdpa_multiply_adds)
    analysis.set_op_handle(**dict.fromkeys(_ELEMENTWISE_OPS))
    # X3D's activation is elementwise too, but fvcore cannot ignore Python functions by name.
    analysis.set_op_handle("prim::PythonOp.SwishFunction", lambda inputs, outputs: 0)
    # Evaluation does not call drop path, and some parents use the weights of a child without
    # calling it; their products are counted anyway.
    analysis.uncalled_modules_warnings(False)
    was_training = model.training
    model.eval()
    try:
        return int(analysis.total())
    finally:
        model.train(was_training)
