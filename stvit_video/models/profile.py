"""Parameters and FLOPs of a model, measured with fvcore."""

from typing import Any

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

# What fvcore has no handle for and what multiplies no matrices: arithmetic and functions of single
# entries, reductions and poolings, comparisons and indices of masks, changes of layout. Any other
# operator that is new to fvcore keeps its warning, because it may hide real work.
_ELEMENTWISE_OPS = (
    *("aten::add", "aten::add_", "aten::sub", "aten::rsub", "aten::mul", "aten::div", "aten::neg"),
    *("aten::pow", "aten::exp", "aten::rsqrt", "aten::tanh", "aten::sigmoid", "aten::softmax"),
    *("aten::gelu", "aten::gelu_", "aten::silu", "aten::hardswish", "aten::hardswish_"),
    *("aten::dropout_", "aten::minimum", "aten::maximum", "aten::sum", "aten::mean", "aten::amax"),
    *("aten::max_pool3d", "aten::avg_pool3d"),
    *("aten::adaptive_avg_pool3d", "aten::adaptive_max_pool2d"),
    *("aten::ne", "aten::lt", "aten::__or__", "aten::__xor__", "aten::any"),
    *("aten::argsort", "aten::fill_"),
    *("aten::index_select", "aten::index_copy_", "aten::scatter_", "aten::unfold"),
    *("aten::unflatten", "aten::view_as"),
    *("aten::meshgrid", "aten::pad", "aten::repeat", "aten::repeat_interleave"),
    *("aten::tensor_split", "aten::linspace", "aten::clone", "aten::empty_like"),
)


def sdpa_multiply_adds(inputs: list[Any], outputs: list[Any]) -> int:
    """Count attention's two products, each of which takes queries x keys x channels.

    Args:
        inputs: jit values; the first three are queries [..., L, E], keys [..., S, E] and values
            [..., S, D], whose leading dimensions may broadcast. The mask adds no products.
        outputs: jit values; not needed.

    Returns:
        Multiply-accumulates, the unit of fvcore's own handles.
    """
    queries, keys, values = (get_shape(value) for value in inputs[:3])
    batch = np.broadcast_shapes(queries[:-2], keys[:-2], values[:-2])
    pairs = int(np.prod(batch, dtype=np.int64)) * queries[-2] * keys[-2]
    return pairs * (queries[-1] + values[-1])


def count_parameters(model: nn.Module) -> int:
    """Count all parameters of ``model``, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_flops(model: nn.Module, inputs: Tensor) -> int:
    """Count the multiply-accumulates of one forward pass in evaluation mode.

    Papers call this number FLOPs. An operator that neither fvcore nor this module knows is
    warned about by fvcore.
    """
    analysis = FlopCountAnalysis(model, inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", sdpa_multiply_adds)
    analysis.set_op_handle(**dict.fromkeys(_ELEMENTWISE_OPS))
    # Elementwise too, X3D's activation; fvcore cannot leave out a Python function by its name.
    analysis.set_op_handle("prim::PythonOp.SwishFunction", lambda inputs, outputs: 0)
    # Drop path, which evaluation skips, and layers whose weights their parents use: the latter's
    # products are counted all the same.
    analysis.uncalled_modules_warnings(False)
    was_training = model.training
    model.eval()
    try:
        return int(analysis.total())
    finally:
        model.train(was_training)
