import re
from pathlib import Path

import numpy as np
import pytest
import torch

from stvit_video.data.build import build_dataset
from stvit_video.data.encode import write_video
from stvit_video.engine import loader_benchmark
from stvit_video.engine.clip_sources import (
    PEER_DECODERS,
    OneItemForAllViews,
    OneItemForEachView,
    OurClips,
    PeerClips,
)
from stvit_video.engine.loader_benchmark import (
    STEPS,
    benchmark_configs,
    compare_sources,
    find_videos,
    time_steps,
    time_workers,
)
from stvit_video.engine.loader_report import loader_report
from stvit_video.errors import UserError

CLIP_BYTES = 3 * 8 * 32 * 32


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(3):
        frames = np.random.default_rng(index).integers(0, 256, (12, 36, 48, 3), dtype=np.uint8)
        write_video(folder / f"{index}.mp4", frames, fps=12, codec="mpeg4")
    return find_videos([folder])


@pytest.fixture
def configs(config_file, videos, tmp_path):
    return benchmark_configs(
        config_file, videos, folder=tmp_path, overrides=["DATA_LOADER.NUM_WORKERS", "1"]
    )


def test_videos_are_found_in_folders_lists_and_by_name(videos):
    folder = videos[0].parent
    assert [video.name for video in videos] == ["0.mp4", "1.mp4", "2.mp4"]
    (folder / "some.csv").write_text("2.mp4 7\n\n0.mp4 1\n")
    assert find_videos([folder / "some.csv", videos[1]]) == [videos[2], videos[0], videos[1]]
    (folder / "empty").mkdir()
    for place in (folder / "gone.mp4", folder / "gone.csv", folder / "empty"):
        with pytest.raises(UserError, match=place.name):
            find_videos([place])


def test_sources_take_turns():
    order = []
    sources = {name: lambda name=name: order.append(name) or 7 for name in "ab"}
    timings = compare_sources(sources, rounds=2)
    assert order == list("ababab")
    assert all(len(timings[name].wall) == len(timings[name].cpu) == 2 for name in "ab")
    assert timings["a"].nbytes == 7


def test_peers_make_clips_of_the_same_shape_in_floats(configs, videos):
    cfg, _ = configs
    assert OurClips(build_dataset(cfg, "train"))() == CLIP_BYTES
    frames_only = OurClips(build_dataset(cfg, "train"), frames_only=True)
    assert frames_only() == 3 * 8 * 36 * 48
    peer = PeerClips(videos, decoder="pyav", cfg=cfg)
    assert peer() == 4 * CLIP_BYTES
    assert peer.seen == {0, 1, 2}


def test_a_peer_that_can_read_nothing_says_so(configs, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for decoder in PEER_DECODERS:
        peer = PeerClips([tmp_path / "text.mp4"], decoder=decoder, cfg=configs[0])
        with pytest.raises(RuntimeError):
            peer()


def test_single_views_are_those_of_the_item_of_all(configs):
    dataset = build_dataset(configs[0], "test")
    one_by_one = OneItemForEachView(dataset)
    views = [one_by_one._view(1, clip=clip, crop=crop) for clip in range(2) for crop in range(3)]
    assert torch.equal(torch.stack(views), dataset[1]["video"])
    assert OneItemForAllViews(dataset)() == one_by_one() == 6 * CLIP_BYTES


def test_steps_are_timed_where_they_happen(configs, monkeypatch):
    dataset = build_dataset(configs[0], "train")
    clock = [0.0]
    monkeypatch.setattr(loader_benchmark.time, "thread_time", lambda: clock[0])
    finish, collate = type(dataset.transform).finish, loader_benchmark.collate

    def slow(function, seconds):
        def run(*arguments, **options):
            clock[0] += seconds
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(type(dataset.transform), "finish", slow(finish, 3.0))
    monkeypatch.setattr(loader_benchmark, "collate", slow(collate, 5.0))
    spent = time_steps(dataset, rounds=2)
    assert tuple(spent) == STEPS
    assert spent == {"open": 0, "seek": 0, "decode": 0, "transform": 3.0, "collate": 5.0}


def test_workers_load_as_many_clips_as_asked(configs):
    speed = time_workers(configs[1], clips=30)
    assert speed.clips >= 30
    assert speed.seconds > 0
    assert [clips for clips, _ in speed.memory] == sorted(clips for clips, _ in speed.memory)
    assert all(nbytes > 2**20 for _, nbytes in speed.memory)


def test_the_report_has_every_part(config_file, videos, tmp_path, monkeypatch):
    monkeypatch.setattr("stvit_video.engine.loader_report.PEER_DECODERS", ("pyav",))
    parts = loader_report(
        config_file,
        videos,
        folder=tmp_path,
        rounds=1,
        clips=8,
        model_speed=1.0,
        device=torch.device("cpu"),
    )
    text = "\n".join(parts)
    assert text.startswith("3 videos, clips of 8 frames at stride 1, decoder pyav")
    assert len(re.findall(r"^LabeledVideoDataset, pyav .*x +[\d.]+x$", text, re.MULTILINE)) == 2
    assert all(re.search(rf"^{step} +[\d.]+ +\d+%$", text, re.MULTILINE) for step in STEPS)
    assert "an item of 2x3 views" in text
    assert re.search(r"the loader, no worker process on \d+ cores: [\d.]+ clips/s", text)
    assert re.search(r"the model trains on 1\.00 clips/s: \d+% of the loader's speed", text)


def test_a_config_that_mixes_clips_is_measured_and_one_of_images_refused(tmp_path):
    configs = Path(__file__).resolve().parents[2] / "configs"
    once, _ = benchmark_configs(
        configs / "k400/ptv/mvit_base_16x4.yaml", [Path("a.mp4")], folder=tmp_path
    )
    assert (once.TRAIN.BATCH_SIZE, once.MIXUP.ENABLE) == (1, False)
    with pytest.raises(UserError, match=r"is of images .TRAIN.DATASET imagenet.: --loader"):
        benchmark_configs(configs / "imagenet/deit_s.yaml", [Path("a.mp4")], folder=tmp_path)
