"""Rules for the config values of models: dense ones, semantic tokens, and detectors."""

import math

from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    entries_at_least,
    is_range,
    length,
    one_of,
)

# MODEL.ARCH of detectors.
_DETECTOR = "cascade_mask_rcnn"


def _is_swin(arch: str) -> bool:
    """Whether MODEL.ARCH is a Swin or has a Swin backbone."""
    return arch in ("swin", _DETECTOR)


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _heads_divide_channels(heads: tuple[int, ...], channels: int) -> bool:
    return all(channels * 2**stage % count == 0 for stage, count in enumerate(heads))


def _multiple_for_family(family: str, number: int, key: str) -> Rule:
    """Require a multiple of ``number`` if MODEL.MODEL_NAME starts with ``family``."""
    return Rule(
        (key, "MODEL.MODEL_NAME"),
        f"must be a multiple of {number} with this model",
        lambda value, name: not name.startswith(family) or value % number == 0,
    )


MODEL_RULES: tuple[Rule, ...] = (
    *at_least(2, "MODEL.NUM_CLASSES"),
    one_of("MODEL.LOSS_FUNC", "cross_entropy", "soft_cross_entropy"),
    Rule(
        ("MODEL.LOSS_FUNC",),
        'must be "soft_cross_entropy" if MIXUP.ENABLE is true',
        lambda loss: loss == "soft_cross_entropy",
        when="MIXUP.ENABLE",
    ),
    one_of("MODEL.HEAD_ACT", "softmax", "sigmoid", "none"),
    Rule(
        ("MODEL.ACT_CHECKPOINT", "MODEL.ARCH"),
        'must be false with MODEL.ARCH "ptv", which has no activation checkpointing',
        lambda checkpoints, arch: not checkpoints or arch != "ptv",
    ),
    one_of("MODEL.COMPILE_BACKEND", "inductor", "aot_eager", "eager"),
    one_of("MODEL.PARAM_DTYPE", "float32", "bfloat16"),
    Rule(
        ("MODEL.PARAM_DTYPE",),
        "must be float32 with TRAIN.MIXED_PRECISION, which needs float32 parameters",
        lambda dtype: dtype == "float32",
        when="TRAIN.MIXED_PRECISION",
    ),
    *each(
        "must be at least 0 and below 1",
        lambda rate: 0 <= rate < 1,
        "MODEL.DROPOUT_RATE",
        "MODEL.DROPCONNECT_RATE",
        "MIXUP.LABEL_SMOOTH_VALUE",
        "SOLVER.MOMENTUM",
    ),
    *at_least(0, "MODEL.FC_INIT_STD"),
    # PyTorchVideo models.
    Rule(
        ("MODEL.MODEL_NAME", "MODEL.ARCH"),
        'must be empty unless MODEL.ARCH is "ptv"',
        lambda name, arch: arch == "ptv" or not name,
    ),
    Rule(
        ("STVIT.ENABLE", "MODEL.ARCH"),
        'must be false with MODEL.ARCH "ptv", whose models have no semantic tokens',
        lambda enable, arch: arch != "ptv" or not enable,
    ),
    Rule(
        ("MODEL.DROPCONNECT_RATE", "MODEL.MODEL_NAME"),
        "must be 0 with a convolutional model of PyTorchVideo, which has no stochastic depth",
        lambda rate, name: rate == 0 or not name or name.startswith("mvit"),
    ),
    _multiple_for_family("slowfast", 4, "DATA.NUM_FRAMES"),
    _multiple_for_family("mvit", 2, "DATA.NUM_FRAMES"),
    _multiple_for_family("mvit", 4, "DATA.TRAIN_CROP_SIZE"),
    Rule(
        ("DATA.TEST_CROP_SIZE", "DATA.TRAIN_CROP_SIZE", "MODEL.MODEL_NAME"),
        "must equal DATA.TRAIN_CROP_SIZE, because the position embeddings have that size",
        lambda test, train, name: test == train or not name.startswith("mvit"),
        when="TEST.ENABLE",
    ),
    # DeiT and Swin.
    one_of("SWIN.STEM", "patch", "conv"),
    *length(2, "DEIT.PATCH_SIZE"),
    *entries_at_least(1, "DEIT.PATCH_SIZE"),
    *at_least(1, "DEIT.EMBED_DIM", "DEIT.DEPTH", "DEIT.NUM_HEADS"),
    *each("must be above 0", lambda value: value > 0, "DEIT.MLP_RATIO"),
    Rule(
        ("DEIT.NUM_HEADS", "DEIT.EMBED_DIM"),
        "must divide DEIT.EMBED_DIM",
        lambda heads, channels: channels % heads == 0,
    ),
    *length(3, "SWIN.PATCH_SIZE", "SWIN.WINDOW_SIZE"),
    *each("must not be empty", bool, "SWIN.DEPTHS", "STVIT.KEY_WINDOWS"),
    *entries_at_least(1, "SWIN.PATCH_SIZE", "SWIN.WINDOW_SIZE", "SWIN.DEPTHS", "SWIN.NUM_HEADS"),
    *at_least(1, "SWIN.EMBED_DIM"),
    *each("must be above 0", lambda value: value > 0, "SWIN.MLP_RATIO", "SOLVER.BASE_LR"),
    Rule(
        ("SWIN.NUM_HEADS", "SWIN.DEPTHS"),
        "must have as many entries as SWIN.DEPTHS",
        lambda heads, depths: len(heads) == len(depths),
    ),
    Rule(
        ("SWIN.NUM_HEADS", "SWIN.EMBED_DIM"),
        "must divide the channels of each stage, which are SWIN.EMBED_DIM times 1, 2, 4, ...",
        _heads_divide_channels,
    ),
)

SEMANTIC_RULES: tuple[Rule, ...] = (
    one_of("STVIT.INITIALIZATION", "spatial", "global", "spatial+global", "spatial+position"),
    one_of("STVIT.SEMANTIC_KEYS", "all", "later", "none"),
    one_of("STVIT.POOLING", "intra_inter", "average", "max"),
    one_of("STVIT.BORDER", "move", "cut", "released", "released_unmasked"),
    *at_least(1, "STVIT.NUM_TOKENS", "STVIT.TEMPORAL_WINDOW"),
    *at_least(0, "STVIT.LAYER_SCALE_INIT", "STVIT.GLOBAL_WINDOWS", "STVIT.CROSS_WINDOW"),
    *entries_at_least(0, "STVIT.KEY_WINDOWS"),
    *each("must be a square number", _is_square, "STVIT.NUM_TOKENS"),
    *at_least(0, "STVIT.RECOVERY_WINDOW"),
    Rule(
        ("STVIT.RECOVERY_WINDOW", "STVIT.NUM_TOKENS", "MODEL.ARCH"),
        "must be 0, or with Swin at least the side of the semantic tokens of a window",
        lambda side, tokens, arch: not side or (_is_swin(arch) and side >= math.isqrt(tokens)),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.BORDER", "MODEL.ARCH"),
        'must be "move" with DeiT, whose frame is one window',
        lambda border, arch: border == "move" or arch != "deit",
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.KEY_WINDOWS", "MODEL.ARCH"),
        "must be 0 with DeiT, whose frame is one window",
        lambda sides, arch: arch != "deit" or not any(sides),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.CROSS_WINDOW", "STVIT.TEMPORAL_WINDOW", "MODEL.ARCH"),
        "must be 0 with DeiT, whose frame is one window, and if STVIT.TEMPORAL_WINDOW is not 1",
        lambda side, frames, arch: not side or (frames == 1 and _is_swin(arch)),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.RELEASED_GLOBAL", "STVIT.INITIALIZATION"),
        'must be false unless STVIT.INITIALIZATION is "spatial+global"',
        lambda released, initialization: not released or initialization == "spatial+global",
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.REUSE_TOKENS", "MODEL.ACT_CHECKPOINT"),
        "must be false with MODEL.ACT_CHECKPOINT",
        lambda reuse, checkpoint: not (reuse and checkpoint),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.GLOBAL_WINDOWS", "MODEL.ARCH"),
        "must be 0 with DeiT, whose frame is one window",
        lambda windows, arch: arch != "deit" or not windows,
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.SEMANTIC_KEYS", "STVIT.BORDER"),
        'must be "none" if STVIT.BORDER is not "move": centered windows have only image tokens',
        lambda keys, border: keys == "none" or border == "move",
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.KEY_WINDOWS", "SWIN.WINDOW_SIZE", "STVIT.BORDER"),
        'must be 0 or at least the rows of SWIN.WINDOW_SIZE if STVIT.BORDER is not "move"',
        lambda sides, window, border: (
            border == "move" or all(side == 0 or side >= window[1] for side in sides)
        ),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.BORDER", "STVIT.KEY_WINDOWS", "STVIT.RECOVERY_WINDOW"),
        'must be "move" or "cut" if a window is 0, because nothing is padded without windows',
        lambda border, sides, side: not border.startswith("released") or (all(sides) and side > 0),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.STAGE", "SWIN.DEPTHS", "MODEL.ARCH"),
        "must be a stage in SWIN.DEPTHS, counted from 1",
        lambda stage, depths, arch: not _is_swin(arch) or 1 <= stage <= len(depths),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.NUM_TOKENS", "SWIN.WINDOW_SIZE", "MODEL.ARCH"),
        "must be at most the number of image tokens in a window",
        lambda tokens, window, arch: not _is_swin(arch) or tokens <= window[1] * window[2],
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.NUM_TOKENS", "DATA.TRAIN_CROP_SIZE", "DEIT.PATCH_SIZE", "MODEL.ARCH"),
        "must be at most the number of image tokens in a frame",
        lambda tokens, crop, patch, arch: (
            arch != "deit" or math.isqrt(tokens) <= crop // max(patch)
        ),
        when="STVIT.ENABLE",
    ),
    Rule(
        (
            "STVIT.NUM_TOKENS",
            "DATA.TEST_CROP_SIZE",
            "DEIT.PATCH_SIZE",
            "MODEL.ARCH",
            "STVIT.ENABLE",
        ),
        "must be at most the number of image tokens in a test frame",
        lambda tokens, crop, patch, arch, semantic: (
            not semantic or arch != "deit" or math.isqrt(tokens) <= crop // max(patch)
        ),
        when="TEST.ENABLE",
    ),
    Rule(
        ("DEIT.CLASS_TOKEN", "MODEL.ARCH"),
        "must be false with semantic tokens (STVIT.ENABLE), because their mean is classified",
        lambda class_token, arch: arch != "deit" or not class_token,
        when="STVIT.ENABLE",
    ),
    Rule(
        ("SWIN.STEM", "SWIN.PATCH_SIZE", "MODEL.ARCH"),
        'must be "patch" unless SWIN.PATCH_SIZE is (1, 4, 4), the patch size of "conv"',
        lambda stem, patch, arch: not _is_swin(arch) or stem == "patch" or patch == (1, 4, 4),
    ),
)

DETECTION_RULES: tuple[Rule, ...] = (
    *(
        Rule(
            (f"{part}.DATASET", "MODEL.ARCH"),
            'must be "coco" if and only if MODEL.ARCH is "cascade_mask_rcnn"',
            lambda name, arch: (name == "coco") == (arch == _DETECTOR),
            when=f"{part}.ENABLE",
        )
        for part in ("TRAIN", "TEST")
    ),
    *(
        Rule(
            (key, "MODEL.ARCH"),
            'must be false with MODEL.ARCH "cascade_mask_rcnn"',
            lambda enabled, arch: not enabled or arch != _DETECTOR,
        )
        for key in ("AUG.ENABLE", "MIXUP.ENABLE", "MODEL.COMPILE")
    ),
    Rule(
        ("MODEL.PARAM_DTYPE", "MODEL.ARCH"),
        'must be "float32" with MODEL.ARCH "cascade_mask_rcnn", whose boxes need the precision',
        lambda dtype, arch: dtype == "float32" or arch != _DETECTOR,
    ),
    Rule(
        ("SWIN.PATCH_SIZE", "MODEL.ARCH"),
        'must have 1 frame with MODEL.ARCH "cascade_mask_rcnn", which detects in images',
        lambda patch, arch: patch[0] == 1 or arch != _DETECTOR,
    ),
    Rule(
        ("SWIN.PATCH_SIZE", "MODEL.ARCH"),
        'must have equal rows and columns of 1, 2 or 4 with MODEL.ARCH "cascade_mask_rcnn"',
        lambda patch, arch: arch != _DETECTOR or (patch[1] == patch[2] and patch[1] in (1, 2, 4)),
    ),
    Rule(
        ("SOLVER.BACKBONE_LR_FACTOR", "MODEL.ARCH"),
        'must be 1 with MODEL.ARCH "cascade_mask_rcnn", which has a single learning rate',
        lambda factor, arch: factor == 1 or arch != _DETECTOR,
    ),
    Rule(
        ("SOLVER.LAYER_DECAY", "MODEL.ARCH"),
        'must be 1 with MODEL.ARCH "cascade_mask_rcnn", whose parameters have no layer ids',
        lambda decay, arch: decay == 1 or arch != _DETECTOR,
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
    *each("must be empty or a range (low, high) above 0", is_range, "DETECTION.CROP_RANGE"),
    Rule(
        ("DETECTION.CROP_RANGE", "DETECTION.CROP_SHORT_SIDES"),
        "must be empty if and only if DETECTION.CROP_SHORT_SIDES is",
        lambda sides, short_sides: bool(sides) == bool(short_sides),
    ),
    Rule(
        ("DETECTION.ANCHOR_SIZES", "SWIN.DEPTHS", "MODEL.ARCH"),
        "must have one more entry than SWIN.DEPTHS",
        lambda sizes, depths, arch: arch != _DETECTOR or len(sizes) == len(depths) + 1,
    ),
    Rule(
        ("DETECTION.STAGE_WEIGHTS", "DETECTION.IOU_THRESHOLDS"),
        "must have as many entries as DETECTION.IOU_THRESHOLDS",
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
