"""All rules over config values in one table; a new rule is a new line in it."""

import math
from collections.abc import Mapping
from itertools import pairwise

from fvcore.common.config import CfgNode

from stvit_video.config.detection import DETECTION_RULES
from stvit_video.config.keys import leaves
from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    entries_at_least,
    is_range,
    is_swin,
    length,
    one_of,
)
from stvit_video.errors import UserError


def validate(cfg: CfgNode, *, origins: Mapping[str, str]) -> None:
    """Check a merged config against all rules before anything starts.

    Args:
        cfg: the config, whose values have the types of the defaults.
        origins: where the values that are not defaults were written, {dotted key: "a.yaml:3"}.

    Raises:
        UserError: the first rule that does not hold, with the values and where they stand.
    """
    values = leaves(cfg)
    for rule in RULES:
        if rule.is_broken(values):
            raise UserError(rule.describe(values, origins=origins))


def _climbs_from_zero(steps: tuple[int, ...]) -> bool:
    return steps[:1] == (0,) and all(early < late for early, late in pairwise(steps))


def _heads_divide_channels(heads: tuple[int, ...], channels: int) -> bool:
    return all(channels * 2**stage % count == 0 for stage, count in enumerate(heads))


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _multiple_with(family: str, number: int, key: str) -> Rule:
    return Rule(
        (key, "MODEL.MODEL_NAME"),
        f"must be a multiple of {number} with this model",
        lambda value, name: not name.startswith(family) or value % number == 0,
    )


# In order: a rule may take for granted that those before it hold (a length before the entries,
# a divisor above 0 before a division).
RULES: tuple[Rule, ...] = (
    # Processes and machines.
    one_of("DEVICE", "cuda", "cpu", "auto"),
    one_of("DIST_BACKEND", "auto", "nccl", "gloo"),
    Rule(
        ("DIST_BACKEND", "DEVICE"),
        'must not be "nccl" with DEVICE cpu',
        lambda backend, device: (backend, device) != ("nccl", "cpu"),
        mend='write "auto" or "gloo"',
    ),
    *at_least(1, "NUM_GPUS", mend="for a run on the CPU write DEVICE cpu and NUM_GPUS 1"),
    *at_least(1, "NUM_SHARDS", "LOG_PERIOD"),
    Rule(
        ("SHARD_ID", "NUM_SHARDS"),
        "must be from 0 to NUM_SHARDS - 1",
        lambda shard, shards: 0 <= shard < shards,
    ),
    *at_least(0, "RNG_SEED", "DATA_LOADER.NUM_WORKERS"),
    *each("must not be empty", bool, "OUTPUT_DIR", "DATA.PATH_LABEL_SEPARATOR"),
    # Training and testing.
    *at_least(1, "TRAIN.BATCH_SIZE", "TRAIN.EVAL_PERIOD", "TRAIN.CHECKPOINT_PERIOD"),
    *at_least(1, "TRAIN.ACCUMULATE_STEPS", "TEST.BATCH_SIZE", "TEST.NUM_ENSEMBLE_VIEWS"),
    *(
        Rule(
            (f"{split}.BATCH_SIZE", "NUM_GPUS"),
            "must be a multiple of NUM_GPUS",
            lambda batch, ranks: batch % ranks == 0,
            when=f"{split}.ENABLE",
        )
        for split in ("TRAIN", "TEST")
    ),
    *each("must be from 0 to 1", lambda share: 0 <= share <= 1, "TRAIN.CHECKPOINT_MIN_SHARE"),
    *at_least(0, "TRAIN.CHECKPOINT_STEPS", "TRAIN.KEEP_BEST"),
    # Were the newest one damaged, none would be left to go on from.
    *each(
        "must be at least 2, or 0 for all",
        lambda count: count == 0 or count >= 2,
        "TRAIN.KEEP_LAST",
    ),
    Rule(
        ("TRAIN.KEEP_BEST", "TEST.CHECKPOINT_FILE_PATH"),
        'must be at least 1 where TEST.CHECKPOINT_FILE_PATH is "best"',
        lambda keep, path: keep >= 1 or path != "best",
        when="TRAIN.ENABLE",
    ),
    *each(
        "must be above 1, or 0 for no limit",
        lambda factor: factor == 0 or factor > 1,
        "TRAIN.KILL_LOSS_EXPLOSION_FACTOR",
    ),
    one_of("TRAIN.MIXED_PRECISION_DTYPE", "bfloat16", "float16"),
    one_of("TEST.NUM_SPATIAL_CROPS", 1, 3),
    # Clips.
    *at_least(1, "DATA.NUM_FRAMES", "DATA.SAMPLING_RATE"),
    *at_least(1, "DATA.TRAIN_CROP_SIZE", "DATA.VAL_SHORT_SIDE", "DATA.TEST_CROP_SIZE"),
    *at_least(0, "DATA.TARGET_FPS", "DATA.DECODE_TIMEOUT", "DATA.MAX_BAD_VIDEOS"),
    one_of("DATA.SAMPLING_PROTOCOL", "video_swin", "pyslowfast"),
    one_of("DATA.DECODING_BACKEND", "pyav", "decord"),
    one_of("DATA.INTERPOLATION", "bilinear", "bicubic"),
    *(
        Rule(
            ("DATA.NUM_FRAMES", f"{part}.DATASET"),
            "must be 1 for images",
            lambda frames, name: name not in ("imagenet", "coco") or frames == 1,
            when=f"{part}.ENABLE",
        )
        for part in ("TRAIN", "TEST")
    ),
    one_of("DATA.ENSEMBLE_METHOD", "sum", "max"),
    *length(3, "DATA.MEAN", "DATA.STD"),
    *each("must be above 0 in every entry", lambda std: min(std) > 0, "DATA.STD"),
    *each(
        "must be a lowest and a highest value above 0, or empty",
        is_range,
        "DATA.TRAIN_JITTER_SCALES_RELATIVE",
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
    ),
    *each(
        "must be shares of the frame, at most 1",
        lambda scales: max(scales, default=1) <= 1,
        "DATA.TRAIN_JITTER_SCALES_RELATIVE",
    ),
    Rule(
        ("DATA.TRAIN_JITTER_ASPECT_RELATIVE", "DATA.TRAIN_JITTER_SCALES_RELATIVE"),
        "must be empty if and only if DATA.TRAIN_JITTER_SCALES_RELATIVE is",
        lambda aspects, scales: bool(aspects) == bool(scales),
    ),
    *length(2, "DATA.TRAIN_JITTER_SCALES"),
    Rule(
        ("DATA.TRAIN_JITTER_SCALES", "DATA.TRAIN_CROP_SIZE", "DATA.TRAIN_JITTER_SCALES_RELATIVE"),
        "must rise from at least DATA.TRAIN_CROP_SIZE where there are no relative scales",
        lambda sides, crop, scales: bool(scales) or crop <= sides[0] <= sides[1],
    ),
    Rule(
        ("DATA.VAL_SHORT_SIDE", "DATA.TRAIN_CROP_SIZE"),
        "must be at least DATA.TRAIN_CROP_SIZE, which is cut out of it",
        lambda side, crop: side >= crop,
    ),
    Rule(
        ("DATA.VAL_SHORT_SIDE", "DATA.TEST_CROP_SIZE", "TEST.NUM_SPATIAL_CROPS"),
        "must be at least DATA.TEST_CROP_SIZE, which is cut out of it in a test with 1 crop",
        lambda side, crop, crops: crops > 1 or side >= crop,
        when="TEST.ENABLE",
    ),
    # Augmentation; AUG.AA_TYPE is read where it is built.
    *at_least(1, "AUG.NUM_SAMPLE", "AUG.RE_COUNT"),
    Rule(
        ("AUG.ENABLE", "AUG.NUM_SAMPLE"),
        "must be true where AUG.NUM_SAMPLE is above 1",
        lambda enabled, samples: enabled or samples == 1,
    ),
    one_of("AUG.INTERPOLATION", "bilinear", "bicubic"),
    one_of("AUG.RE_MODE", "pixel", "rand", "const"),
    *each(
        "must be from 0 to 1",
        lambda share: 0 <= share <= 1,
        "AUG.COLOR_JITTER",
        "AUG.RE_PROB",
        "MIXUP.PROB",
        "MIXUP.SWITCH_PROB",
    ),
    *at_least(0, "MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"),
    Rule(
        ("MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"),
        "must be above 0 where MIXUP.CUTMIX_ALPHA is 0",
        lambda mixup, cutmix: mixup > 0 or cutmix > 0,
        when="MIXUP.ENABLE",
        mend="to smooth labels alone, write MIXUP.ENABLE false",
    ),
    Rule(
        ("TRAIN.BATCH_SIZE", "NUM_GPUS"),
        "must be at least 2 for each of NUM_GPUS, as MIXUP.ENABLE is true",
        lambda batch, ranks: batch >= 2 * ranks,
        when="MIXUP.ENABLE",
    ),
    # Models.
    *at_least(2, "MODEL.NUM_CLASSES"),
    one_of("MODEL.LOSS_FUNC", "cross_entropy", "soft_cross_entropy"),
    Rule(
        ("MODEL.LOSS_FUNC",),
        'must be "soft_cross_entropy", as MIXUP.ENABLE is true',
        lambda loss: loss == "soft_cross_entropy",
        when="MIXUP.ENABLE",
    ),
    one_of("MODEL.HEAD_ACT", "softmax", "sigmoid", "none"),
    Rule(
        ("MODEL.ACT_CHECKPOINT", "MODEL.ARCH"),
        'must be false with MODEL.ARCH "ptv", whose blocks do not checkpoint',
        lambda checkpoints, arch: not checkpoints or arch != "ptv",
    ),
    one_of("MODEL.COMPILE_BACKEND", "inductor", "aot_eager", "eager"),
    one_of("MODEL.PARAM_DTYPE", "float32", "bfloat16"),
    Rule(
        ("MODEL.PARAM_DTYPE",),
        "must be float32 with TRAIN.MIXED_PRECISION, which works on a float32 model",
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
    # PyTorchVideo's models.
    Rule(
        ("MODEL.MODEL_NAME", "MODEL.ARCH"),
        'must be empty unless MODEL.ARCH is "ptv"',
        lambda name, arch: arch == "ptv" or not name,
    ),
    Rule(
        ("STVIT.ENABLE", "MODEL.ARCH"),
        'must be false with MODEL.ARCH "ptv", whose models are dense',
        lambda enable, arch: arch != "ptv" or not enable,
    ),
    Rule(
        ("MODEL.DROPCONNECT_RATE", "MODEL.MODEL_NAME"),
        "must be 0 with a convolutional model of PyTorchVideo, which has no stochastic depth",
        lambda rate, name: rate == 0 or not name or name.startswith("mvit"),
    ),
    _multiple_with("slowfast", 4, "DATA.NUM_FRAMES"),
    _multiple_with("mvit", 2, "DATA.NUM_FRAMES"),
    _multiple_with("mvit", 4, "DATA.TRAIN_CROP_SIZE"),
    Rule(
        ("DATA.TEST_CROP_SIZE", "DATA.TRAIN_CROP_SIZE", "MODEL.MODEL_NAME"),
        "must equal DATA.TRAIN_CROP_SIZE, the one size of the model's position embeddings",
        lambda test, train, name: test == train or not name.startswith("mvit"),
        when="TEST.ENABLE",
    ),
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
        "must have an entry for each one of SWIN.DEPTHS",
        lambda heads, depths: len(heads) == len(depths),
    ),
    Rule(
        ("SWIN.NUM_HEADS", "SWIN.EMBED_DIM"),
        "must divide the channels of each stage, which are SWIN.EMBED_DIM times 1, 2, 4, ...",
        _heads_divide_channels,
    ),
    # Semantic tokens.
    one_of("STVIT.INITIALIZATION", "spatial", "global", "spatial+global", "spatial+position"),
    one_of("STVIT.SEMANTIC_KEYS", "all", "later", "none"),
    one_of("STVIT.POOLING", "intra_inter", "average", "max"),
    one_of("STVIT.BORDER", "move", "cut", "released", "released_unmasked"),
    *at_least(1, "STVIT.NUM_TOKENS", "STVIT.TEMPORAL_WINDOW", "STVIT.GLOBAL_WINDOWS"),
    *at_least(0, "STVIT.LAYER_SCALE_INIT"),
    *entries_at_least(0, "STVIT.KEY_WINDOWS"),
    *each("must be a square number", _is_square, "STVIT.NUM_TOKENS"),
    *at_least(0, "STVIT.RECOVERY_WINDOW"),
    Rule(
        ("STVIT.RECOVERY_WINDOW", "STVIT.NUM_TOKENS", "MODEL.ARCH"),
        "must be 0, or with Swin at least the side of a window's semantic tokens",
        lambda side, tokens, arch: not side or (is_swin(arch) and side >= math.isqrt(tokens)),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.BORDER", "MODEL.ARCH"),
        'must be "move" with DeiT, whose frame is one window',
        lambda border, arch: border == "move" or arch != "deit",
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.SEMANTIC_KEYS", "STVIT.BORDER"),
        'must be "none" where STVIT.BORDER is not "move": centred windows hold image tokens alone',
        lambda keys, border: keys == "none" or border == "move",
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.KEY_WINDOWS", "SWIN.WINDOW_SIZE", "STVIT.BORDER"),
        'must be at least the rows of SWIN.WINDOW_SIZE, or 0, where STVIT.BORDER is not "move"',
        lambda sides, window, border: (
            border == "move" or all(side == 0 or side >= window[1] for side in sides)
        ),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.BORDER", "STVIT.KEY_WINDOWS", "STVIT.RECOVERY_WINDOW"),
        'must be "move" or "cut" where a window is 0: without windows nothing is padded',
        lambda border, sides, side: not border.startswith("released") or (all(sides) and side > 0),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.STAGE", "SWIN.DEPTHS", "MODEL.ARCH"),
        "must be a stage of SWIN.DEPTHS, counted from 1",
        lambda stage, depths, arch: not is_swin(arch) or 1 <= stage <= len(depths),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.NUM_TOKENS", "SWIN.WINDOW_SIZE", "MODEL.ARCH"),
        "must be at most the image tokens of a window, rows times columns",
        lambda tokens, window, arch: not is_swin(arch) or tokens <= window[1] * window[2],
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.NUM_TOKENS", "DATA.TRAIN_CROP_SIZE", "DEIT.PATCH_SIZE", "MODEL.ARCH"),
        "must be at most the image tokens of a frame",
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
        "must be at most the image tokens of a test frame",
        lambda tokens, crop, patch, arch, semantic: (
            not semantic or arch != "deit" or math.isqrt(tokens) <= crop // max(patch)
        ),
        when="TEST.ENABLE",
    ),
    Rule(
        ("DEIT.CLASS_TOKEN", "MODEL.ARCH"),
        "must be false with semantic tokens (STVIT.ENABLE), whose mean is classified",
        lambda class_token, arch: arch != "deit" or not class_token,
        when="STVIT.ENABLE",
    ),
    Rule(
        ("SWIN.STEM", "SWIN.PATCH_SIZE", "MODEL.ARCH"),
        'must be "patch", unless SWIN.PATCH_SIZE is (1, 4, 4), which is what "conv" makes',
        lambda stem, patch, arch: not is_swin(arch) or stem == "patch" or patch == (1, 4, 4),
    ),
    *DETECTION_RULES,
    # The optimizer and its schedule.
    one_of("SOLVER.OPTIMIZING_METHOD", "adamw", "sgd"),
    one_of("SOLVER.LR_POLICY", "cosine", "steps_with_relative_lrs"),
    *at_least(1, "SOLVER.MAX_EPOCH"),
    *at_least(0, "SOLVER.COSINE_END_LR", "SOLVER.WARMUP_EPOCHS", "SOLVER.WARMUP_START_LR"),
    *at_least(0, "SOLVER.WEIGHT_DECAY", "SOLVER.BACKBONE_LR_FACTOR"),
    *at_least(0, "SOLVER.CLIP_GRAD_VAL", "SOLVER.CLIP_GRAD_L2NORM"),
    Rule(
        ("SOLVER.WARMUP_EPOCHS", "SOLVER.MAX_EPOCH"),
        "must be at most SOLVER.MAX_EPOCH",
        lambda warmup, last: warmup <= last,
    ),
    Rule(
        ("SOLVER.WARMUP_EPOCHS", "SOLVER.MAX_EPOCH"),
        "must be below SOLVER.MAX_EPOCH, as SOLVER.COSINE_AFTER_WARMUP is true",
        lambda warmup, last: warmup < last,
        when="SOLVER.COSINE_AFTER_WARMUP",
    ),
    Rule(
        ("SOLVER.LRS", "SOLVER.STEPS"),
        "must have an entry for each one of SOLVER.STEPS",
        lambda factors, steps: len(factors) == len(steps),
    ),
    *each("must rise from 0 without repeats", _climbs_from_zero, "SOLVER.STEPS"),
    *each("must be above 0 and at most 1", lambda decay: 0 < decay <= 1, "SOLVER.LAYER_DECAY"),
    Rule(
        ("SOLVER.LAYER_DECAY", "MODEL.ARCH"),
        'must be 1 with MODEL.ARCH "ptv", whose layers are not numbered',
        lambda decay, arch: decay == 1 or arch != "ptv",
    ),
    *each("must be above 0 and below 1", lambda decay: 0 < decay < 1, "EMA.DECAY"),
    *entries_at_least(0, "SOLVER.LRS"),
    *length(2, "SOLVER.BETAS"),
    *each(
        "must be at least 0 and below 1 in every entry",
        lambda betas: all(0 <= beta < 1 for beta in betas),
        "SOLVER.BETAS",
    ),
    Rule(
        ("SOLVER.NESTEROV", "SOLVER.MOMENTUM", "SOLVER.OPTIMIZING_METHOD"),
        "must be false where SOLVER.MOMENTUM is 0",
        lambda nesterov, momentum, method: method != "sgd" or not nesterov or momentum > 0,
    ),
)
