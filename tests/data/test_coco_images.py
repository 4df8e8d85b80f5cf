"""COCO images: transforms, samples, batches, order on every rank, and unreadable images."""

import json
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
from coco_folder import content, write, write_folder
from PIL import Image
from PIL.ExifTags import Base
from torchvision import tv_tensors

from stvit_video.config import load_config
from stvit_video.data.bad_videos import BadVideoError
from stvit_video.data.build import build_dataset, build_loader
from stvit_video.data.coco import annotation_file
from stvit_video.data.coco.dataset import RandomRectangleCrop, eval_transform, train_transform
from stvit_video.data.samplers import GroupedBatchSampler, SampleKey
from stvit_video.errors import UserError

CONFIG = """
DEVICE: cpu
TRAIN: {DATASET: coco, BATCH_SIZE: 2}
TEST: {DATASET: coco}
DATA: {NUM_FRAMES: 1}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL: {ARCH: cascade_mask_rcnn, NUM_CLASSES: 3}
SWIN: {PATCH_SIZE: [1, 4, 4], WINDOW_SIZE: [1, 7, 7]}
DETECTION:
  SPLITS: [train, val, test]
  TRAIN_SHORT_SIDES: [40, 60, 80]
  MAX_SIZE: 100
  CROP_SHORT_SIDES: [50]
  CROP_RANGE: [30, 45]
  TEST_SHORT_SIDE: 80
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def config(folder, tmp_path):
    """Return a function from overrides to a config over the folder."""
    path = tmp_path / "coco.yaml"
    path.write_text(CONFIG)
    where = ("DATA.PATH_TO_DATA_DIR", str(folder), "OUTPUT_DIR", str(tmp_path / "run"))
    return lambda *overrides: load_config(path, [*where, *overrides])


def sample_of_markers(height=40, width=60):
    """Return an image with three white boxes, and its target."""
    boxes = torch.tensor([[4.0, 6, 20, 22], [40, 10, 56, 34], [24, 20, 36, 38]])
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(3, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
        image[:, top:bottom, left:right] = 255
    size = (height, width)
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.tensor([1, 2, 3]),
        "masks": tv_tensors.Mask(masks),
    }
    return tv_tensors.Image(image), target


@pytest.mark.parametrize("seed", range(12))
def test_boxes_and_masks_stay_on_their_objects(seed):
    transform = train_transform(
        short_sides=(40, 64), max_size=90, crop_short_sides=(50,), crop_range=(30, 45)
    )
    torch.manual_seed(seed)
    image, target = transform(*sample_of_markers())
    assert min(image.shape[1:]) in (39, 40, 63, 64) or max(image.shape[1:]) in (89, 90)
    assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
    assert len(target["labels"]) == len(target["boxes"])
    for (left, top, right, bottom), mask in zip(target["boxes"], target["masks"], strict=True):
        assert 0 <= left < right <= image.shape[2] and 0 <= top < bottom <= image.shape[1]
        rows, columns = torch.where(mask > 0)
        edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        torch.testing.assert_close(
            edges.float(), torch.stack([left, top, right, bottom]), atol=2.0, rtol=0
        )
        # Antialiasing changes only the border.
        assert image[0][mask > 0].float().mean() > 200


def test_half_of_the_images_are_cropped_and_half_are_flipped():
    transform = train_transform(
        short_sides=(40,), max_size=60, crop_short_sides=(40,), crop_range=(20, 24)
    )
    plain, flipped, number = 0, 0, 400
    torch.manual_seed(0)
    for _ in range(number):
        image, target = transform(*sample_of_markers())
        if image.shape[1:] == (40, 60):
            plain += 1
            flipped += bool(target["boxes"][0, 0] > 30)
    assert 0.4 < plain / number < 0.6
    assert 0.4 < flipped / plain < 0.6


def test_the_crop_draws_its_sides_from_the_range_and_any_position():
    torch.manual_seed(0)
    crop = RandomRectangleCrop((10, 50))
    rows = torch.arange(40).view(1, 40, 1).expand(3, 40, 60).to(torch.uint8)
    cuts = [crop(tv_tensors.Image(rows)) for _ in range(300)]
    heights = {cut.shape[1] for cut in cuts}
    assert heights == set(range(10, 41))
    assert {cut.shape[2] for cut in cuts} == set(range(10, 51))
    assert {int(cut[0, 0, 0]) for cut in cuts} >= set(range(15))


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1066)), ((300, 900), (444, 1333))]
)
def test_evaluation_limits_both_sides(size, expected):
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    assert eval_transform(short_side=800, max_size=1333)(image).shape[1:] == expected


def test_a_sample_depends_on_its_draw_alone(config):
    dataset = build_dataset(config(), "train")
    state = torch.get_rng_state()
    first, again = dataset[SampleKey(1, 0)], dataset[SampleKey(1, 0)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    later = dataset[SampleKey(1, 0)]
    for other in (again, later):
        assert torch.equal(first["image"], other["image"])
        for name, value in first["target"].items():
            assert torch.equal(value, other["target"][name])
    shapes = {dataset[SampleKey(1, epoch)]["image"].shape for epoch in range(12)}
    assert len(shapes) > 3


def test_batches_are_padded_and_keep_their_sizes(config):
    loader = build_loader(config("TRAIN.BATCH_SIZE", "3"), "train", rank=0, world_size=1)
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    for batch in batches:
        height, width = batch["image"].shape[2:]
        assert height % 32 == width % 32 == 0
        assert height - 32 < max(size[0] for size in batch["size"]) <= height
        for image, (rows, columns), target in zip(
            batch["image"], batch["size"], batch["target"], strict=True
        ):
            assert image[:, :rows, :columns].float().mean() > 100
            assert not image[:, rows:].any() and not image[:, :, columns:].any()
            assert target["masks"].shape[1:] == (rows, columns)
            assert type(target["boxes"]) is torch.Tensor


def draws(world_size, *, epoch=0, first_batch=0, batch_size=2):
    """The indices of every step, by rank, of 23 samples in two groups."""
    groups = np.random.default_rng(0).integers(0, 2, 23)
    by_rank = []
    for rank in range(world_size):
        sampler = GroupedBatchSampler(
            groups, batch_size=batch_size, rank=rank, world_size=world_size, seed=5
        )
        sampler.set_epoch(epoch, first_batch=first_batch)
        batches = [[key.index for key in batch] for batch in sampler]
        assert len(batches) == len(sampler) - first_batch
        by_rank.append(batches)
    return groups, list(zip(*by_rank, strict=True))


def test_all_ranks_of_a_step_get_one_orientation():
    groups, steps = draws(2)
    indices = [index for step in steps for batch in step for index in batch]
    assert len(set(indices)) == len(indices)
    # Only the remainder of each group, which does not fill a step of 4, is dropped.
    for group in (0, 1):
        number = (groups == group).sum()
        assert sum(groups[index] == group for index in indices) == number // 4 * 4
    for step in steps:
        assert len({groups[index] for batch in step for index in batch}) == 1
    kinds = [groups[step[0][0]] for step in steps]
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)


def test_a_step_of_two_ranks_has_the_images_of_one_rank():
    _, two = draws(2)
    _, one = draws(1, batch_size=4)
    assert [list(chain(*step)) for step in two] == [step[0] for step in one]


def test_the_order_depends_on_the_epoch_and_can_be_resumed():
    _, first = draws(2)
    assert draws(2)[1] == first
    assert draws(2, epoch=1)[1] != first
    assert draws(2, first_batch=2)[1] == first[2:]


def test_two_ranks_evaluate_every_image_once(config):
    found = []
    for rank in (0, 1):
        loader = build_loader(config(), "test", rank=rank, world_size=2)
        found += [batch["image_id"] for batch in loader]
    assert sorted(chain(*found)) == list(range(10, 17))
    assert all(len(ids) == 1 for ids in found)


def test_unreadable_images_are_replaced_and_listed(tmp_path, config, folder):
    what = content()
    write(tmp_path / "data", "train", what)
    images = tmp_path / "data" / "train"
    (images / "11.png").unlink()
    (images / "12.png").write_bytes(b"no image")
    (images / "10.png").write_bytes((images / "13.png").read_bytes())
    # The mask has more pixels than the image.
    what["annotations"][-1]["segmentation"] = {"counts": [0, 9999], "size": [40, 62]}
    (tmp_path / "data" / "annotations" / "instances_train.json").write_text(json.dumps(what))
    cfg = config("DATA.PATH_TO_DATA_DIR", str(tmp_path / "data"))
    dataset = build_dataset(cfg, "train")
    for index, message in (
        (0, "it is 44 x 60 pixels, but its annotations are for 60 x 40"),
        (1, "No such file"),
        (2, "Pillow cannot identify the image"),
        (7, "a mask of its annotations is damaged"),
    ):
        with pytest.raises(BadVideoError, match=message):
            dataset[SampleKey(index, 0)]
    loader = build_loader(cfg, "train", rank=0, world_size=1)
    for epoch in range(4):
        loader.batch_sampler.set_epoch(epoch)
        assert len(list(loader)) == len(loader)
    listed = pd.read_csv(tmp_path / "run" / "quarantine.csv")
    assert listed["path"].tolist() == ["10.png", "11.png", "12.png", "18.png"]
    assert listed["line"].tolist() == [1, 2, 3, 9]


def test_the_exif_orientation_is_ignored(tmp_path, config):
    what = content()
    write(tmp_path / "data", "train", what)
    file = tmp_path / "data" / "train" / "10.png"
    with Image.open(file) as image:
        stored = np.asarray(image.copy())
        exif = image.getexif()
        exif[Base.Orientation] = 6  # rotate by 90 degrees
        image.save(file, exif=exif)
    cfg = config("DATA.PATH_TO_DATA_DIR", str(tmp_path / "data"))
    dataset = build_dataset(cfg, "train")
    np.testing.assert_array_equal(dataset.read(0).permute(1, 2, 0), stored)
    # Annotations of the upright picture have another size.
    what["images"][0].update(width=40, height=60)
    (tmp_path / "data" / "annotations" / "instances_train.json").write_text(json.dumps(what))
    with pytest.raises(
        BadVideoError, match="60 x 40 pixels, but its annotations are for 40 x 60; if"
    ):
        build_dataset(cfg, "train").read(0)


def test_too_few_images_for_a_step_raise_an_error(config):
    with pytest.raises(UserError, match=r"lists 8 images with objects, and neither the wide nor"):
        build_loader(config("TRAIN.BATCH_SIZE", "6"), "train", rank=0, world_size=1)


def test_too_many_bad_annotations_raise_an_error(config, tmp_path):
    what = content()
    what["annotations"][0]["bbox"][2] = 0
    write(tmp_path / "data", "train", what)
    overrides = ("DATA.PATH_TO_DATA_DIR", str(tmp_path / "data"))
    build_dataset(config(*overrides), "train")
    with pytest.raises(UserError, match="MAX_BAD_ANNOTATIONS is 0: fix them"):
        build_dataset(config(*overrides, "DETECTION.MAX_BAD_ANNOTATIONS", "0"), "train")


def test_runs_with_a_shared_cache_parse_a_file_once(config, tmp_path, monkeypatch):
    parsed = []
    real = annotation_file._load_json
    monkeypatch.setattr(
        annotation_file, "_load_json", lambda path: parsed.append(path) or real(path)
    )
    shared = ("DETECTION.CACHE_DIR", str(tmp_path / "shared" / "cache"))
    for run in ("one", "two"):
        build_dataset(config(*shared, "OUTPUT_DIR", str(tmp_path / run)), "train")
        assert not (tmp_path / run / "cache").exists()
    assert len(parsed) == 1
    build_dataset(config("OUTPUT_DIR", str(tmp_path / "one")), "train")
    assert len(parsed) == 2
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"CACHE_DIR cannot be created: .*file"):
        build_dataset(config("DETECTION.CACHE_DIR", str(tmp_path / "file" / "x")), "train")
