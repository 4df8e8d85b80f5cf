import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stvit_video.benchmarks import loader
from stvit_video.benchmarks.loader import (
    PEER_DECODERS,
    STEPS,
    OneItemForAllViews,
    OneItemForEachView,
    OurClips,
    PeerClips,
    benchmark_configs,
    compare_sources,
    time_steps,
    time_workers,
)
from stvit_video.benchmarks.loader_report import loader_report
from stvit_video.data.build import build_dataset
from stvit_video.data.encode import write_video
from stvit_video.errors import UserError
from stvit_video.inference.media import Media, find_media

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLIP_BYTES = 3 * 8 * 32 * 32

# Of a report: one round, and a model that is not measured.
QUICK = {"rounds": 1, "model_speed": 1.0, "device": torch.device("cpu")}


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(3):
        frames = np.random.default_rng(index).integers(0, 256, (12, 36, 48, 3), dtype=np.uint8)
        write_video(folder / f"{index}.mp4", frames, fps=12, codec="mpeg4")
    return find_media([folder])


@pytest.fixture
def configs(config_file, videos, tmp_path):
    return benchmark_configs(
        config_file, videos, folder=tmp_path, overrides=["DATA_LOADER.NUM_WORKERS", "1"]
    )


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
    peer = PeerClips(videos.files, decoder="pyav", cfg=cfg)
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
    monkeypatch.setattr(loader.time, "thread_time", lambda: clock[0])
    finish, collate = type(dataset.transform).finish, loader.collate

    def slow(function, seconds):
        def run(*arguments, **options):
            clock[0] += seconds
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(type(dataset.transform), "finish", slow(finish, 3.0))
    monkeypatch.setattr(loader, "collate", slow(collate, 5.0))
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
    monkeypatch.setattr("stvit_video.benchmarks.loader_report.PEER_DECODERS", ("pyav",))
    parts = loader_report(
        config_file,
        videos,
        folder=tmp_path,
        clips=8,
        **QUICK,
    )
    text = "\n".join(parts)
    assert text.startswith("3 videos, clips of 8 frames at stride 1, decoder pyav")
    assert len(re.findall(r"^LabeledVideoDataset, pyav .*x +[\d.]+x$", text, re.MULTILINE)) == 2
    assert all(re.search(rf"^{step} +[\d.]+ +\d+%$", text, re.MULTILINE) for step in STEPS)
    assert "an item of 2x3 views" in text
    assert re.search(r"the loader, no worker process on \d+ cores: [\d.]+ clips/s", text)
    assert re.search(r"the model trains on 1\.00 clips/s: \d+% of the loader's speed", text)


def test_images_are_measured_without_peers(tmp_path):
    for name in "ab":
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (36, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{number}.png")
    (tmp_path / "links").mkdir()
    parts = loader_report(
        CONFIGS / "imagenet/deit_t.yaml",  # mixes images, and takes several samples of each
        find_media([tmp_path / "val"]),
        folder=tmp_path / "links",
        overrides=[
            *("DATA_LOADER.NUM_WORKERS", "0", "TRAIN.BATCH_SIZE", "16", "DATA_LOADER.PIN_MEMORY"),
            *("False", "DATA.TRAIN_CROP_SIZE", "32", "DATA.TEST_CROP_SIZE", "32"),
        ],
        clips=4,
        **QUICK,
    )
    text = "\n".join(parts)
    assert text.startswith("4 images as clips of 1 frame, decoder image, ")
    read = sorted(path.resolve() for path in (tmp_path / "links/once/train").glob("*/*"))
    assert [str(path.relative_to(tmp_path / "val")) for path in read] == [
        *("a/0.png", "a/1.png", "b/0.png", "b/1.png"),
    ]
    assert "LabeledVideoDataset" not in text
    assert "an item of" not in text  # of one view
    assert len(re.findall(r"^this loader, image  ", text, re.MULTILINE)) == 2
    shares = {step: re.search(rf"^{step} .* (\d+)%$", text, re.MULTILINE)[1] for step in STEPS}
    assert int(shares["open"]) > 0
    assert re.search(r"the loader, no worker process on \d+ cores: [\d.]+ clips/s", text)


def test_a_config_that_mixes_clips_is_measured(tmp_path):
    video = tmp_path / "a.mp4"
    video.touch()
    once, _ = benchmark_configs(
        CONFIGS / "k400/ptv/mvit_base_16x4.yaml", Media([video], False), folder=tmp_path
    )
    assert (once.TRAIN.BATCH_SIZE, once.MIXUP.ENABLE, once.AUG.NUM_SAMPLE) == (1, False, 1)


def test_a_broken_image_is_named(tmp_path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "links").mkdir()
    parts = loader_report(
        CONFIGS / "imagenet/deit_t.yaml",
        find_media([tmp_path]),
        folder=tmp_path / "links",
        rounds=1,
        clips=4,
        device=torch.device("cpu"),
    )
    assert next(parts).startswith("2 images")
    with pytest.raises(
        UserError, match=r"cannot read the image 0/0-one\.png: Pillow cannot identify the image"
    ):
        next(parts)


@pytest.mark.parametrize(
    ("config", "name", "sentence"),
    [
        ("imagenet/deit_s", "a.mp4", r"is of images, but .*a\.mp4 is none: name images"),
        ("k400/swin_t", "a.png", r"is of videos, but .*a\.png is none: name videos"),
        ("coco/cascade_mask_rcnn_swin_s", "a.png", r'is "coco": take another config'),
        ("imagenet/deit_s", "a.png", r"at least 2 images, but .*a\.png is the only one"),
        ("k400/swin_t", "gone.mp4", r"There is no .*gone\.mp4"),
    ],
)
def test_files_that_the_config_does_not_read_are_refused(tmp_path, config, name, sentence):
    for there in ("a.mp4", "a.png"):
        (tmp_path / there).touch()
    with pytest.raises(UserError, match=sentence):
        benchmark_configs(
            CONFIGS / f"{config}.yaml", find_media([tmp_path / name]), folder=tmp_path
        )
