"""Attention on a GPU does without kernels that plan for every shape."""

import torch

from stvit_video.runtime.attention_kernels import avoid_planned_attention


def test_cudnn_is_left_out_and_nothing_else():
    backends = torch.backends.cuda
    try:
        backends.enable_cudnn_sdp(True)
        avoid_planned_attention()
        assert not backends.cudnn_sdp_enabled()
        assert backends.flash_sdp_enabled()
        assert backends.mem_efficient_sdp_enabled()
        assert backends.math_sdp_enabled()
    finally:
        backends.enable_cudnn_sdp(True)
