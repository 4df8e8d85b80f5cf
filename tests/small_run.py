"""A config and videos that are small enough to train in a test."""

from pathlib import Path

import av
import numpy as np

# A Swin with semantic tokens and 20 thousand parameters, for 8 frames of 32 x 32 pixels.
SMALL_CONFIG = """
DEVICE: cpu
LOG_MODEL_INFO: False
LOG_PERIOD: 1
TRAIN: {BATCH_SIZE: 4}
TEST: {BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 3}
DATA:
  NUM_FRAMES: 8
  SAMPLING_RATE: 1
  TRAIN_CROP_SIZE: 32
  VAL_SHORT_SIDE: 32
  TEST_CROP_SIZE: 32
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL: {NUM_CLASSES: 3, DROPOUT_RATE: 0.0, DROPCONNECT_RATE: 0.0}
SWIN:
  EMBED_DIM: 12
  DEPTHS: [1, 1, 2, 1]
  NUM_HEADS: [1, 2, 3, 3]
  WINDOW_SIZE: [2, 4, 4]
STVIT: {ENABLE: True, STAGE: 3, LAYOUT: stgm 2, NUM_TOKENS: 1, KEY_WINDOWS: [4, 6]}
SOLVER: {BASE_LR: 1.0e-3, MAX_EPOCH: 2, WARMUP_EPOCHS: 0.5}
TENSORBOARD: {ENABLE: False}
"""


def write_video(path: Path, *, seed: int, frames: int = 12) -> None:
    """Write moving noise as MPEG-4, 48 x 36 pixels at 12 frames per second."""
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 256, (36, 48, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
        for shift in range(frames):
            shifted = np.roll(picture, (seed % 3 + 1) * shift, axis=seed % 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shifted, format="rgb24")))
        container.mux(stream.encode())


def write_data_set(folder: Path) -> None:
    """Write a data set of 8 training, 5 validation and 7 test videos of 3 classes."""
    for index in range(8):
        write_video(folder / f"{index}.mp4", seed=index)
    for split, number in (("train", 8), ("val", 5), ("test", 7)):
        lines = [f"{index}.mp4 {index % 3}" for index in range(number)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
