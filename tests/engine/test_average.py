"""Test the moving average of the weights."""

import pytest
import torch
from torch import nn

from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint
from stvit_video.engine.state import WeightAverage
from stvit_video.engine.train import train
from stvit_video.models import build_model, save_weights


class Model(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=dtype))
        self.register_buffer("mean", torch.tensor([4.0], dtype=dtype))
        self.register_buffer("count", torch.tensor(7))


def test_definition():
    model = Model()
    average = WeightAverage(model, decay=0.75)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([5.0, 6.0]))
        model.mean.fill_(8.0)
        model.count.fill_(9)
    average.update()
    assert average.model.weight.tolist() == [2.0, 3.0]
    assert average.model.mean.tolist() == [5.0]
    # Integers are copied, as an average would be rounded.
    assert average.model.count.item() == 9
    average.update()
    assert average.model.weight.tolist() == [2.75, 3.75]
    average.restart()
    assert average.model.weight.tolist() == [5.0, 6.0]
    assert not average.model.weight.requires_grad


def test_small_updates_of_bfloat16_weights_are_not_lost():
    model = Model(torch.bfloat16)
    average = WeightAverage(model, decay=0.999)
    with torch.no_grad():
        model.weight.mul_(2)
    for _ in range(100):
        average.update()
    expected = torch.tensor([1.0, 2.0]) * (2 - 0.999**100)
    torch.testing.assert_close(average.model.weight.detach(), expected)
    assert model.weight.dtype is torch.bfloat16


def test_each_training_step_updates_the_average(video_config, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_weights(build_model(video_config()), weights)
    cfg = video_config(
        *("EMA.ENABLE", "True", "EMA.DECAY", "0.7", "SOLVER.BASE_LR", "0.01"),
        *("TRAIN.BATCH_SIZE", "2", "TRAIN.CHECKPOINT_STEPS", "1", "SOLVER.MAX_EPOCH", "1"),
        *("TRAIN.CHECKPOINT_FILE_PATH", str(weights), "SOLVER.WARMUP_EPOCHS", "0"),
    )
    train(cfg)
    # Only the checkpoints of the last two steps, 3 and 4, are kept.
    before, after = (read_checkpoint(path) for path in find_checkpoints(cfg.OUTPUT_DIR).values())
    for name, value in after["ema_state"].items():
        expected = 0.7 * before["ema_state"][name] + 0.3 * after["model_state"][name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert not torch.equal(after["ema_state"]["norm.bias"], after["model_state"]["norm.bias"])


@pytest.mark.parametrize("averaged", ["True", "False"])
def test_a_run_can_start_from_averaged_weights(video_config, tmp_path, averaged):
    ema = ("EMA.ENABLE", "True", "EMA.DECAY", "0.7")
    cfg = video_config(*ema, "SOLVER.MAX_EPOCH", "1", "SOLVER.WARMUP_EPOCHS", "0")
    train(cfg)
    (path,) = find_checkpoints(cfg.OUTPUT_DIR).values()
    second = video_config(
        *("OUTPUT_DIR", str(tmp_path / "second"), "TRAIN.CHECKPOINT_FILE_PATH", str(path)),
        *("TRAIN.CHECKPOINT_EPOCH_RESET", "True", "TRAIN.CHECKPOINT_EMA", averaged, *ema),
        *("SOLVER.BASE_LR", "1e-12", "SOLVER.WEIGHT_DECAY", "0", "SOLVER.MAX_EPOCH", "1"),
    )
    train(second)
    (result,) = find_checkpoints(second.OUTPUT_DIR).values()
    source, result = read_checkpoint(path), read_checkpoint(result)
    expected = source["ema_state" if averaged == "True" else "model_state"]["norm.bias"]
    for key in ("model_state", "ema_state"):
        torch.testing.assert_close(result[key]["norm.bias"], expected, atol=1e-8, rtol=0)
    other = source["model_state" if averaged == "True" else "ema_state"]["norm.bias"]
    assert (other - expected).abs().max() > 1e-6
