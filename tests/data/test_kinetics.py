import hashlib
import pickle

import numpy as np
import pytest
import torch
from broken_videos import ODD
from made_videos import plain_decode

from stvit_video.config import load_config
from stvit_video.data import labeled_videos
from stvit_video.data.bad_videos import BadVideoError
from stvit_video.data.build import build_dataset, build_loader
from stvit_video.data.labeled_paths import read_labeled_paths
from stvit_video.data.samplers import SampleKey, generator_for
from stvit_video.errors import UserError

CONFIG = """
DEVICE: cpu
TRAIN: {BATCH_SIZE: 2}
TEST: {BATCH_SIZE: 12, NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 3}
DATA:
  NUM_FRAMES: 4
  SAMPLING_RATE: 3
  TRAIN_CROP_SIZE: 32
  VAL_SHORT_SIDE: 40
  TEST_CROP_SIZE: 40
DATA_LOADER: {NUM_WORKERS: 0}
MODEL: {NUM_CLASSES: 3}
"""


@pytest.fixture
def config(video_folder, tmp_path):
    """Return a function that maps overrides to a config of ``video_folder``."""
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return lambda *overrides: load_config(
        path, ["DATA.PATH_TO_DATA_DIR", str(video_folder), *overrides]
    )


def read(tmp_path, text, *, separator=" ", num_classes=10):
    path = tmp_path / "some.csv"
    path.write_text(text)
    return read_labeled_paths(path, separator=separator, num_classes=num_classes)


def test_lines_are_path_and_label(tmp_path):
    paths = read(tmp_path, "a.mp4 0\n\n/b/with some space.mp4 7\n  ü é.mp4   9  \n")
    assert list(paths) == [("a.mp4", 0), ("/b/with some space.mp4", 7), ("ü é.mp4", 9)]
    assert [paths.location(i).rpartition(", ")[2] for i in range(3)] == [
        "line 1",
        "line 3",
        "line 4",
    ]


def test_the_label_follows_the_last_separator(tmp_path):
    paths = read(tmp_path, "a,b.mp4,3\n c.mp4,4", separator=",")
    assert list(paths) == [("a,b.mp4", 3), ("c.mp4", 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no videos"),
        ("\n \n", "lists no videos"),
        ("a.mp4 1\nb.mp4\n", r'line 2: a line must be "path label", not "b.mp4"'),
        ("a.mp4 1\nb.mp4 one\n", 'line 2: the label must be an integer, not "one"'),
        ("a.mp4 1\n\nb.mp4 1.0\n", 'line 3: the label must be an integer, not "1.0"'),
        ("a.mp4 10\n", r"line 1: the label must lie in 0\.\.9 .* is 10"),
        ("a.mp4 -1\n", r"line 1: the label must lie in 0\.\.9 .* is -1"),
    ],
)
def test_errors_in_a_csv_file_name_their_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_missing_csv_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_labeled_paths(tmp_path / "none.csv", separator=" ", num_classes=2)


def test_paths_take_little_memory(tmp_path):
    lines = [f"folder/video_{i:06d}.mp4 {i % 9}\n" for i in range(5000)]
    paths = read(tmp_path, "".join(lines))
    assert len(pickle.dumps(paths)) < 50 * 5000  # 23 characters, an end, a line and a label each
    assert paths[4999] == ("folder/video_004999.mp4", 4999 % 9)
    with pytest.raises(IndexError):
        paths[5000]


def test_the_fingerprint_is_a_plain_sha256(tmp_path):
    paths = read(tmp_path, "a.mp4 0\n\n  ü é.mp4   9  \n")
    expected = hashlib.sha256("a.mp4\t0\nü é.mp4\t9\n".encode()).hexdigest()
    assert paths.fingerprint() == expected[:16]
    for other in ("a.mp4 0\n", "ü é.mp4 9\na.mp4 0\n", "a.mp4 1\nü é.mp4 9\n"):
        assert read(tmp_path, other).fingerprint() != paths.fingerprint()


def test_a_single_missing_video_fails_only_when_it_is_read(config, video_folder, tmp_path):
    (tmp_path / "val.csv").write_text(f"gone.mp4 1\n{video_folder}/video 0.mp4 1\n")
    dataset = build_dataset(config("DATA.PATH_TO_DATA_DIR", str(tmp_path)), "val")
    with pytest.raises(BadVideoError, match=r"val\.csv, line 1: cannot .* gone\.mp4: No such file"):
        dataset[0]


def test_pyav_reads_videos_that_decord_cannot_read(config, tmp_path):
    ODD["av1.mp4"][0](tmp_path / "av1.mp4")
    (tmp_path / "test.csv").write_text("av1.mp4 2\n")
    where = ("DATA.PATH_TO_DATA_DIR", str(tmp_path), "OUTPUT_DIR", str(tmp_path / "run"))
    videos = {}
    for backend in ("pyav", "decord"):
        cfg = config(*where, "DATA.DECODING_BACKEND", backend)
        loader = build_loader(cfg, "test", rank=0, world_size=1)
        videos[backend] = [batch["video"] for batch in loader]
        assert len(loader.bad_video_log.read_by_fallback) == (backend == "decord")
    assert torch.equal(videos["pyav"][0], videos["decord"][0])
    assert not (tmp_path / "run").exists()


def test_a_missing_data_set_says_what_to_do(config, tmp_path):
    for folder in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="make demo"):
            build_dataset(config("DATA.PATH_TO_DATA_DIR", folder), "train")


def test_missing_videos_are_detected_when_the_data_set_is_built(config, tmp_path):
    (tmp_path / "val.csv").write_text("gone.mp4 1\n")
    with pytest.raises(UserError, match=r"val\.csv, line 1: there is no video .*gone\.mp4"):
        build_dataset(config("DATA.PATH_TO_DATA_DIR", str(tmp_path)), "val")


def test_relative_paths_start_at_the_prefix_or_the_csv_file(config, video_folder, tmp_path):
    (tmp_path / "val.csv").write_text("video 0.mp4 1\n")
    elsewhere = ("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(video_folder))
    assert build_dataset(config(*elsewhere), "val")[0]["video_name"] == "video 0.mp4"
    assert len(build_dataset(config(), "val")) == 6


def test_a_training_sample(config):
    sample = build_dataset(config(), "train")[SampleKey(4, 0)]
    assert sample["video"].shape == (3, 4, 32, 32)
    assert sample["video"].dtype == torch.uint8
    assert 0 <= sample["mixing_seed"] < 2**62
    del sample["video"], sample["mixing_seed"]
    about = {"label": 1, "video_index": 4, "clip_index": 0, "video_name": "video 4.mp4"}
    assert sample == about


def test_a_training_sample_equals_the_transform_of_whole_frames(config, video_folder):
    dataset = build_dataset(config(), "train")
    frames = torch.from_numpy(plain_decode(video_folder / "video 5.mp4"))
    for epoch in range(4):
        key = SampleKey(5, epoch)
        generator = generator_for(key, seed=dataset.seed)
        clip = dataset.sampling.random_clip(len(frames), fps=25, generator=generator)
        expected = dataset.transform(frames[clip], generator=generator)
        assert torch.equal(dataset[key]["video"], expected)


def test_a_validation_sample_is_the_center_of_the_center(config, video_folder):
    frames = plain_decode(video_folder / "video 4.mp4")  # 50 frames, span 12: starts at 19
    dataset = build_dataset(config("DATA.VAL_SHORT_SIDE", "48"), "val")
    expected = frames[[19, 22, 25, 28], 8:40, 16:48].transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(dataset[4]["video"], expected)


def test_a_test_item_holds_all_views_clip_by_clip(config, video_folder):
    cfg = config("DATA.TEST_CROP_SIZE", "48", "DATA.VAL_SHORT_SIDE", "48")
    item = build_dataset(cfg, "test")[2]
    frames = plain_decode(video_folder / "video 2.mp4")  # 30 frames of 48x64, avg (30 - 11) / 2
    assert item["video"].shape == (6, 3, 4, 48, 48)
    for clip, start in enumerate((4, 14)):
        for crop, left in enumerate((0, 8, 16)):
            expected = frames[start : start + 12 : 3, :, left : left + 48].transpose(3, 0, 1, 2)
            np.testing.assert_array_equal(item["video"][3 * clip + crop], expected)
    assert (item["label"], item["video_index"], item["video_name"]) == (2, 2, "video 2.mp4")


def test_one_test_crop_is_cut_from_the_short_side_of_validation(config):
    cfg = config("TEST.NUM_SPATIAL_CROPS", "1", "TEST.NUM_ENSEMBLE_VIEWS", "1")
    with_one = build_dataset(cfg, "test")[0]["video"]
    assert with_one.shape == (1, 3, 4, 40, 40)


def test_a_video_is_opened_once_for_all_its_views(config, monkeypatch):
    opened = []
    real = labeled_videos.open_video
    monkeypatch.setattr(
        labeled_videos,
        "open_video",
        lambda path, **options: opened.append(path) or real(path, **options),
    )
    build_dataset(config("TEST.NUM_ENSEMBLE_VIEWS", "5"), "test")[5]
    assert len(opened) == 1


def epoch_of(cfg, *, epoch, rank=0, world_size=1):
    loader = build_loader(cfg, "train", rank=rank, world_size=world_size)
    loader.batch_sampler.set_epoch(epoch)
    return samples_of(loader)


def samples_of(loader):
    return {
        int(index): video
        for batch in loader
        for index, video in zip(batch["video_index"], batch["video"], strict=True)
    }


def assert_same_samples(some, others):
    assert some.keys() == others.keys()
    assert all(torch.equal(some[index], others[index]) for index in some)


def test_a_sample_depends_only_on_seed_epoch_and_index(config):
    alone = epoch_of(config(), epoch=1)
    assert_same_samples(alone, epoch_of(config("DATA_LOADER.NUM_WORKERS", "2"), epoch=1))
    halves = [epoch_of(config(), epoch=1, rank=rank, world_size=2) for rank in range(2)]
    for half in halves:
        assert_same_samples(half, {index: alone[index] for index in half})
    for other in (epoch_of(config(), epoch=2), epoch_of(config("RNG_SEED", "1"), epoch=1)):
        assert any(not torch.equal(alone[index], other[index]) for index in alone)


def test_workers_persist_and_sample_new_clips_each_epoch(config):
    loader = build_loader(config("DATA_LOADER.NUM_WORKERS", "1"), "train", rank=0, world_size=1)
    loader.batch_sampler.set_epoch(0)
    first = {int(i) for batch in loader for i in batch["video_index"]}
    clips = []
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        clips.append(samples_of(loader))
    assert first == clips[0].keys() == set(range(6))
    assert any(not torch.equal(clips[0][index], clips[1][index]) for index in first)


def test_training_batches(config):
    (batch, *_) = build_loader(config(), "train", rank=0, world_size=1)
    assert batch["video"].shape == (2, 3, 4, 32, 32)
    assert batch["label"].dtype == batch["video_index"].dtype == torch.int64
    assert len(batch["video_name"]) == 2


def test_too_few_videos_for_a_step(config):
    with pytest.raises(UserError, match=r"lists 6 videos, fewer than the 7 .* TRAIN.BATCH_SIZE"):
        build_loader(config("TRAIN.BATCH_SIZE", "7"), "train", rank=0, world_size=1)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_batches_hold_every_video_once(config, split, world_size):
    ranks = range(world_size)
    loaders = [build_loader(config(), split, rank=r, world_size=world_size) for r in ranks]
    shape = (2, 3, 4, 32, 32) if split == "val" else (2, 6, 3, 4, 40, 40)
    batches = [batch for loader in loaders for batch in loader]
    assert {tuple(batch["video"].shape) for batch in batches} == {shape}
    assert sorted(int(i) for batch in batches for i in batch["video_index"]) == list(range(6))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_broken_video_ends_the_run_with_a_one_line_error(config, video_folder, tmp_path, workers):
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    lines = [f"{video_folder}/video {i}.mp4 0\n" for i in range(2)] + ["broken.mp4 1\n"]
    (tmp_path / "val.csv").write_text("".join(lines))
    stop = ("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA_LOADER.NUM_WORKERS", workers)
    cfg = config(*stop, "DATA.MAX_BAD_VIDEOS", "0", "OUTPUT_DIR", str(tmp_path / "run"))
    loader = build_loader(cfg, "val", rank=0, world_size=1)
    with pytest.raises(UserError) as caught:
        list(loader)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.startswith(f"1 of the 3 videos of {tmp_path}/val.csv cannot be read")
    assert "DATA.MAX_BAD_VIDEOS is 0: " in message
    assert "(line 3, broken.mp4: Invalid data" in message
    assert "tools/check_data.py" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_real_clips_as_a_data_set(config, real_videos, tmp_path, backend):
    lines = [f"{path} {i % 3}\n" for i, path in enumerate(real_videos)]
    (tmp_path / "test.csv").write_text("".join(lines))
    folder = ("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.DECODING_BACKEND", backend)
    dataset = build_dataset(config(*folder, "DATA.NUM_FRAMES", "16"), "test")
    for index, path in enumerate(real_videos):
        item = dataset[index]
        assert item["video"].shape == (6, 3, 16, 40, 40)
        assert item["video_name"] == str(path)
