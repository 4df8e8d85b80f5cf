"""Plot the attention of semantic tokens."""

import pytest
import torch
from PIL import Image

from stvit_video.engine.checkpoint import checkpoint_path
from stvit_video.engine.train import train
from stvit_video.errors import UserError
from stvit_video.inference import attention
from stvit_video.inference.attention import plot_attention


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_is_plotted_with_the_tested_weights(video_config, tmp_path, monkeypatch, dtype):
    cfg = video_config(
        *("EMA.ENABLE", "True", "EMA.DECAY", "0.5", "SOLVER.MAX_EPOCH", "1"),
        *("MODEL.PARAM_DTYPE", dtype),
    )
    train(cfg)
    saved = torch.load(checkpoint_path(cfg.OUTPUT_DIR, 1), weights_only=True)
    built = []
    build = attention.build_model
    monkeypatch.setattr(attention, "build_model", lambda cfg: built.append(build(cfg)) or built[-1])
    title = plot_attention(cfg, video_index=0, output=tmp_path / "attention.png")
    assert title.startswith("0.mp4: 0, predicted as ")
    width, height = Image.open(tmp_path / "attention.png").size
    assert width > 200
    assert height > 200
    name = "head.fc.weight"
    (model,) = built
    assert torch.equal(model.state_dict()[name], saved["ema_state"][name].float())
    assert not torch.equal(model.state_dict()[name], saved["model_state"][name].float())


def test_a_dense_model_has_no_semantic_attention(video_config, tmp_path):
    cfg = video_config("STVIT.ENABLE", "False")
    with pytest.raises(UserError, match=r"set STVIT\.ENABLE True"):
        plot_attention(cfg, video_index=0, output=tmp_path / "attention.png")
