"""The rules over the keys of detection, and over others where there is a detector."""

from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    entries_at_least,
    is_range,
    length,
    one_of,
)

_ARCH = "cascade_mask_rcnn"

# In order, as all rules.
DETECTION_RULES: tuple[Rule, ...] = (
    *(
        Rule(
            (f"{part}.DATASET", "MODEL.ARCH"),
            'must be "coco" if and only if MODEL.ARCH is "cascade_mask_rcnn"',
            lambda name, arch: (name == "coco") == (arch == _ARCH),
            when=f"{part}.ENABLE",
        )
        for part in ("TRAIN", "TEST")
    ),
    *(
        Rule(
            (key, "MODEL.ARCH"),
            'must be false with MODEL.ARCH "cascade_mask_rcnn"',
            lambda enabled, arch: not enabled or arch != _ARCH,
        )
        for key in ("AUG.ENABLE", "MIXUP.ENABLE", "MODEL.COMPILE")
    ),
    Rule(
        ("MODEL.PARAM_DTYPE", "MODEL.ARCH"),
        'must be "float32" with MODEL.ARCH "cascade_mask_rcnn", whose boxes need its digits',
        lambda dtype, arch: dtype == "float32" or arch != _ARCH,
    ),
    Rule(
        ("SWIN.PATCH_SIZE", "MODEL.ARCH"),
        'must be of 1 frame with MODEL.ARCH "cascade_mask_rcnn", which detects in images',
        lambda patch, arch: patch[0] == 1 or arch != _ARCH,
    ),
    Rule(
        ("SWIN.PATCH_SIZE", "MODEL.ARCH"),
        'must have as many rows as columns, 1, 2 or 4, with MODEL.ARCH "cascade_mask_rcnn"',
        lambda patch, arch: arch != _ARCH or (patch[1] == patch[2] and patch[1] in (1, 2, 4)),
    ),
    Rule(
        ("SOLVER.BACKBONE_LR_FACTOR", "MODEL.ARCH"),
        'must be 1 with MODEL.ARCH "cascade_mask_rcnn", all of which learns at one rate',
        lambda factor, arch: factor == 1 or arch != _ARCH,
    ),
    Rule(
        ("SOLVER.LAYER_DECAY", "MODEL.ARCH"),
        'must be 1 with MODEL.ARCH "cascade_mask_rcnn", whose layers are not numbered',
        lambda decay, arch: decay == 1 or arch != _ARCH,
    ),
    *length(3, "DETECTION.SPLITS"),
    *length(2, "DETECTION.NUM_PROPOSALS"),
    *each("must not be empty", bool, "DETECTION.TRAIN_SHORT_SIDES", "DETECTION.IOU_THRESHOLDS"),
    *entries_at_least(
        1,
        "DETECTION.TRAIN_SHORT_SIDES",
        "DETECTION.CROP_SHORT_SIDES",
        "DETECTION.ANCHOR_SIZES",
        "DETECTION.NUM_PROPOSALS",
    ),
    *at_least(
        1,
        "DETECTION.MAX_SIZE",
        "DETECTION.TEST_SHORT_SIDE",
        "DETECTION.FPN_CHANNELS",
        "DETECTION.BOXES_PER_IMAGE",
        "DETECTION.BOX_FC_DIM",
        "DETECTION.MAX_DETECTIONS",
    ),
    *at_least(0, "DETECTION.MAX_BAD_ANNOTATIONS", "DETECTION.BOX_CONVS", "DETECTION.MASK_CONVS"),
    *each(
        "must be a lowest and a highest value above 0, or empty", is_range, "DETECTION.CROP_RANGE"
    ),
    Rule(
        ("DETECTION.CROP_RANGE", "DETECTION.CROP_SHORT_SIDES"),
        "must be empty if and only if DETECTION.CROP_SHORT_SIDES is",
        lambda sides, short_sides: bool(sides) == bool(short_sides),
    ),
    Rule(
        ("DETECTION.ANCHOR_SIZES", "SWIN.DEPTHS", "MODEL.ARCH"),
        "must have one entry more than SWIN.DEPTHS",
        lambda sizes, depths, arch: arch != _ARCH or len(sizes) == len(depths) + 1,
    ),
    Rule(
        ("DETECTION.STAGE_WEIGHTS", "DETECTION.IOU_THRESHOLDS"),
        "must have an entry for each one of DETECTION.IOU_THRESHOLDS",
        lambda weights, thresholds: len(weights) == len(thresholds),
    ),
    *each(
        "must be above 0 and below 1 in every entry",
        lambda thresholds: all(0 < threshold < 1 for threshold in thresholds),
        "DETECTION.IOU_THRESHOLDS",
    ),
    *entries_at_least(0, "DETECTION.STAGE_WEIGHTS"),
    *each(
        "must be from 0 to 1",
        lambda share: 0 <= share <= 1,
        "DETECTION.SCORE_THRESH",
        "DETECTION.NMS_THRESH",
    ),
    one_of("DETECTION.BOX_LOSS", "giou", "smooth_l1"),
)
