"""Multi-view tests of real clips of several codecs, with both decoders."""

from pathlib import Path

import pandas as pd
import torch

from stvit_video.data.build import build_dataset
from stvit_video.engine.evaluate import evaluate
from stvit_video.models import build_model, save_weights

FRAMES = ("DATA.NUM_FRAMES", "32", "DATA.SAMPLING_RATE", "2")


def test_both_decoders_give_the_same_predictions(small_config, real_videos, tmp_path):
    lines = [f"{path} {index % 3}\n" for index, path in enumerate(real_videos)]
    (tmp_path / "test.csv").write_text("".join(lines))
    data = ("DATA.PATH_TO_DATA_DIR", str(tmp_path), "TEST.NUM_ENSEMBLE_VIEWS", "4", *FRAMES)
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_weights(build_model(small_config("MODEL.FC_INIT_STD", "1.0")), weights)
    tables = {}
    for backend in ("pyav", "decord"):
        cfg = small_config(
            *data,
            *("DATA.DECODING_BACKEND", backend),
            *("TEST.CHECKPOINT_FILE_PATH", str(weights)),
            *("OUTPUT_DIR", str(tmp_path / backend)),
        )
        evaluate(cfg)
        tables[backend] = pd.read_csv(Path(cfg.OUTPUT_DIR) / "results" / "predictions.csv")
    assert list(tables["pyav"]["video_name"]) == [str(path) for path in real_videos]
    assert tables["pyav"]["score"].nunique() == len(real_videos)
    pd.testing.assert_frame_equal(tables["pyav"], tables["decord"], check_exact=True)


def test_a_clip_of_ten_frames_loops(small_config, real_videos, tmp_path):
    short = next(path for path in real_videos if path.name == "h265.mp4")
    (tmp_path / "test.csv").write_text(f"{short} 0\n")
    dataset = build_dataset(small_config("DATA.PATH_TO_DATA_DIR", str(tmp_path), *FRAMES), "test")
    views = dataset[0]["video"]  # [V K, 3, T, H, W]
    assert views.shape[2] == 32
    # Every second of ten frames: the sixth one is the first frame again.
    assert torch.equal(views[:, :, 5:], views[:, :, :-5])
    assert not torch.equal(views[:, :, 1], views[:, :, 0])
