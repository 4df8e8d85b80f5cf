"""Folders of images: what is listed, read, and refused; and a training on them."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from stvit_video.config import load_config
from stvit_video.data.build import build_dataset, build_loader
from stvit_video.data.decode import VideoError, open_video
from stvit_video.data.imagenet import IMAGE_SUFFIXES, class_files, read_image_folders
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.train import train
from stvit_video.errors import UserError

CONFIG = """
DEVICE: cpu
LOG_MODEL_INFO: False
TRAIN: {DATASET: imagenet, BATCH_SIZE: 4}
TEST: {DATASET: imagenet, BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1}
DATA: {NUM_FRAMES: 1, SAMPLING_RATE: 1, TRAIN_CROP_SIZE: 32, VAL_SHORT_SIDE: 36, TEST_CROP_SIZE: 32}
DATA_LOADER: {NUM_WORKERS: 0}
MODEL: {ARCH: deit, NUM_CLASSES: 2, DROPOUT_RATE: 0.0}
DEIT: {EMBED_DIM: 16, DEPTH: 3, NUM_HEADS: 2, PATCH_SIZE: [8, 8], CLASS_TOKEN: False}
STVIT: {ENABLE: True, LAYOUT: "base 1, stgm 2", NUM_TOKENS: 4, KEY_WINDOWS: [0, 0]}
SOLVER: {MAX_EPOCH: 1, WARMUP_EPOCHS: 0.0}
"""
CLASSES = ("n01440764", "n01443537")


def picture(seed, *, height=50, width=40):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    """Four training images and two others in each of two classes."""
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            path = tmp_path / "imagenet" / split / name
            path.mkdir(parents=True)
            for number in range(count):
                picture(10 * label + number).save(path / f"{name}_{number}.JPEG", quality=95)
    return tmp_path / "imagenet"


@pytest.fixture
def config(folder, tmp_path):
    path = tmp_path / "imagenet.yaml"
    path.write_text(CONFIG)
    data = ("DATA.PATH_TO_DATA_DIR", str(folder), "OUTPUT_DIR", str(tmp_path / "output"))
    return lambda *overrides: load_config(path, [*data, *overrides])


def test_labels_are_the_places_of_sorted_class_folders(folder):
    (folder / "train" / CLASSES[0] / "notes.txt").write_text("no image")
    paths = read_image_folders(folder / "train", num_classes=2)
    assert [label for _, label in paths] == [0] * 4 + [1] * 4
    assert paths[5][0] == f"{CLASSES[1]}/{CLASSES[1]}_1.JPEG"
    assert paths.place(5) == f"{folder / 'train'}, image 6"


def test_an_image_is_a_video_of_one_frame(folder):
    path = folder / "val" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    with open_video(path, backend="image") as reader:
        assert (reader.num_frames, reader.duration) == (1, 1.0)
        frames = reader.get_frames([0, 0, 0])
    assert frames.shape == (3, 50, 40, 3)
    assert np.array_equal(frames[2].numpy(), np.asarray(Image.open(path)))


def test_suffixes_are_those_of_torchvision():
    assert IMAGE_SUFFIXES == IMG_EXTENSIONS


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_files_of_every_suffix_are_listed_and_read(suffix, folder):
    path = folder / "train" / CLASSES[0] / f"a{suffix.upper()}"
    # Smooth, so that little of it is lost; and gray, as a .pgm is.
    image = picture(0, height=4, width=3).resize((40, 50), Image.Resampling.BICUBIC).convert("L")
    image.save(path)
    paths = read_image_folders(folder / "train", num_classes=2)
    assert f"{CLASSES[0]}/{path.name}" in [name for name, _ in paths]
    with open_video(path, backend="image") as reader:
        (frame,) = reader.get_frames([0]).numpy().astype(int)
    difference = np.abs(frame - np.asarray(image.convert("RGB")))
    assert difference.mean() < 3 if suffix in (".jpg", ".jpeg", ".webp") else difference.max() == 0


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_more_than_8_bits_are_refused(suffix, tmp_path):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.full((8, 8), 4096, dtype=np.uint16)).save(path)
    with pytest.raises(VideoError, match="gray values have more than 8 bits"):
        open_video(path, backend="image")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(mode, tmp_path):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    picture(0).convert(mode).save(path)
    with open_video(path, backend="image") as reader:
        assert reader.get_frames([0]).shape == (1, 50, 40, 3)


def test_what_is_no_whole_image_is_said(folder):
    good = folder / "val" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    cut, text = good.with_name("cut.JPEG"), good.with_name("text.JPEG")
    cut.write_bytes(good.read_bytes()[:700])
    text.write_text("no image")
    for path, reason in (
        (cut, "truncated"),
        (text, "Pillow cannot identify the image"),
        (good.parent, "directory"),
    ):
        with pytest.raises(VideoError, match=reason):
            open_video(path, backend="image")
    with pytest.raises(VideoError, match="No such file"):
        open_video(good.with_name("missing.JPEG"), backend="image")


def test_evaluation_resizes_bicubic_and_cuts_the_center_as_pillow_does(config, folder):
    sample = build_dataset(config("DATA.INTERPOLATION", "bicubic"), "val")[1]
    with Image.open(folder / "val" / sample["video_name"]) as image:
        resized = image.resize((36, 45), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[6:38, 2:34].astype(int)
    found = sample["video"][:, 0].permute(1, 2, 0).numpy().astype(int)
    assert found.shape == (32, 32, 3)
    assert np.abs(found - expected).max() <= 2


def test_training_batches_hold_augmented_images(config):
    augmented = ("AUG.ENABLE", "True", "AUG.NUM_SAMPLE", "3", "AUG.AA_TYPE", "rand-m9-mstd0.5-inc1")
    (first, *_) = build_loader(config(*augmented), "train", rank=0, world_size=1)
    assert first["video"].shape == (12, 3, 1, 32, 32)
    assert first["video"].dtype == torch.uint8
    assert first["label"].tolist() == [
        int(name.startswith(CLASSES[1])) for name in first["video_name"]
    ]


def test_a_model_is_trained_and_tested_and_a_broken_image_is_left_out(config, folder):
    broken = folder / "val" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:500])
    cfg = config()
    train(cfg)
    evaluate(cfg)
    results = folder.parent / "output" / "results"
    assert len(pd.read_csv(results / "predictions.csv")) == 3
    left_out = pd.read_csv(results / "left_out.csv")
    assert list(left_out["path"]) == [f"{CLASSES[1]}/{CLASSES[1]}_0.JPEG"]


def test_a_missing_folder_is_a_sentence(config, folder):
    shutil.rmtree(folder / "val")
    with pytest.raises(UserError, match=r"val \(No such file or directory\): set DATA.PATH_TO"):
        build_dataset(config(), "val")


def test_a_wrong_number_of_classes_is_a_sentence(config):
    with pytest.raises(UserError, match="holds 2 folders, one for each class, but"):
        build_dataset(config("MODEL.NUM_CLASSES", "3"), "train")


def test_an_empty_class_folder_is_a_sentence(config, folder):
    shutil.rmtree(folder / "train" / CLASSES[1])
    (folder / "train" / CLASSES[1]).mkdir()
    with pytest.raises(UserError, match=f"{CLASSES[1]} holds no images"):
        build_dataset(config(), "train")


def test_a_class_folder_that_cannot_be_read_is_a_sentence(folder):
    shutil.rmtree(folder / "train" / CLASSES[1])
    closed = folder / "train" / CLASSES[1]
    with pytest.raises(UserError, match=f"cannot read the class folder {closed}"):
        class_files(closed)


def test_fewer_images_than_a_step_takes_are_a_sentence(config, folder):
    sentence = rf"{folder}/train lists 8 images, fewer than the 9 of one step.* TRAIN.BATCH_SIZE"
    with pytest.raises(UserError, match=sentence):
        build_loader(config("TRAIN.BATCH_SIZE", "9"), "train", rank=0, world_size=1)


def test_splits_of_other_classes_are_a_sentence(config, folder):
    (folder / "val" / CLASSES[1]).rename(folder / "val" / "n02")
    with pytest.raises(
        UserError, match="must hold the same class folders, but n01443537 is in one"
    ):
        build_dataset(config(), "val")
