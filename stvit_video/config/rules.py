"""Rules for config values: the rule type, and the rules for runs, data and solver."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A condition on the values of one or more keys.

    Attributes:
        keys: the keys whose values ``holds`` takes, in this order. The message is about the first
            one, which is the one to change.
        text: the condition in words: "must be a multiple of NUM_GPUS".
        holds: whether the condition is met. It may assume that all earlier rules hold.
        when: a boolean key. The rule applies only if it is true.
        fix: what to do, if ``text`` does not say it already.
    """

    keys: tuple[str, ...]
    text: str
    holds: Callable[..., bool]
    when: str = ""
    fix: str = ""

    def is_broken(self, values: Mapping[str, Any]) -> bool:
        """Whether ``values``, {dotted key: value}, break the rule."""
        applies = not self.when or values[self.when]
        return bool(applies) and not self.holds(*(values[key] for key in self.keys))

    def describe(self, values: Mapping[str, Any], *, origins: Mapping[str, str]) -> str:
        """Return a sentence with the condition, and the values and their origins instead."""
        first, *others = self.keys
        found = [
            f"{name} is {_quote(values[key])} ({origins.get(key, 'default')})"
            for name, key in zip(("it", *others), self.keys, strict=True)
        ]
        fix = f": {self.fix}" if self.fix else ""
        return f"{first} {self.text}, but {' and '.join(found)}{fix}"


def one_of(key: str, *choices: object) -> Rule:
    """Require one of ``choices``."""
    *most, last = [_quote(choice) for choice in choices]
    text = f"must be {', '.join(most)} or {last}" if most else f"must be {last}"
    return Rule((key,), text, lambda value: value in choices)


def at_least(low: float, *keys: str, fix: str = "") -> tuple[Rule, ...]:
    """Require a minimum for each key."""
    return each(f"must be at least {low}", lambda value: value >= low, *keys, fix=fix)


def entries_at_least(low: float, *keys: str) -> tuple[Rule, ...]:
    """Require a minimum for every entry of each key."""
    return each(
        f"must be at least {low} in every entry", lambda value: all(v >= low for v in value), *keys
    )


def length(size: int, *keys: str) -> tuple[Rule, ...]:
    """Require a number of entries for each key."""
    return each(f"must have {size} entries", lambda value: len(value) == size, *keys)


def each(text: str, holds: Callable[[Any], bool], *keys: str, fix: str = "") -> tuple[Rule, ...]:
    """Apply the same rule to each of several keys."""
    return tuple(Rule((key,), text, holds, fix=fix) for key in keys)


def is_range(values: tuple[float, ...]) -> bool:
    """Whether ``values`` is empty or a range (low, high) above 0."""
    return not values or (len(values) == 2 and 0 < values[0] <= values[1])


def _increases_from_zero(steps: tuple[int, ...]) -> bool:
    return steps[:1] == (0,) and all(early < late for early, late in pairwise(steps))


def _quote(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


RUN_RULES: tuple[Rule, ...] = (
    # Processes and machines.
    one_of("DEVICE", "cuda", "cpu", "auto"),
    one_of("DIST_BACKEND", "auto", "nccl", "gloo"),
    Rule(
        ("DIST_BACKEND", "DEVICE"),
        'must not be "nccl" with DEVICE cpu',
        lambda backend, device: (backend, device) != ("nccl", "cpu"),
        fix='set it to "auto" or "gloo"',
    ),
    *at_least(1, "NUM_GPUS", fix="set DEVICE cpu and NUM_GPUS 1 to run on the CPU"),
    *at_least(1, "NUM_SHARDS", "LOG_PERIOD"),
    Rule(
        ("SHARD_ID", "NUM_SHARDS"),
        "must be from 0 to NUM_SHARDS - 1",
        lambda shard, shards: 0 <= shard < shards,
    ),
    *each("must be from 0 to 2147483647", lambda seed: 0 <= seed <= 2147483647, "RNG_SEED"),
    *at_least(0, "DATA_LOADER.NUM_WORKERS"),
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
    # With only one, a damaged checkpoint would leave none to resume from.
    *each(
        "must be at least 2, or 0 for all",
        lambda count: count == 0 or count >= 2,
        "TRAIN.KEEP_LAST",
    ),
    Rule(
        ("TRAIN.KEEP_BEST", "TEST.CHECKPOINT_FILE_PATH"),
        'must be at least 1 if TEST.CHECKPOINT_FILE_PATH is "best"',
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
)


DATA_RULES: tuple[Rule, ...] = (
    # Sampling, decoding and crops.
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
    *(
        Rule(
            ("SWIN.PATCH_SIZE", f"{part}.DATASET", "MODEL.ARCH"),
            "must have 1 frame for images",
            lambda patch, name, arch: patch[0] == 1 or name != "imagenet" or arch != "swin",
            when=f"{part}.ENABLE",
        )
        for part in ("TRAIN", "TEST")
    ),
    one_of("DATA.ENSEMBLE_METHOD", "sum", "max"),
    *length(3, "DATA.MEAN", "DATA.STD"),
    *each(
        "must be from 0 to 1 in every entry",
        lambda mean: min(mean) >= 0 and max(mean) <= 1,
        "DATA.MEAN",
        fix="divide values from 0 to 255 by 255",
    ),
    *each(
        "must be above 0 and at most 1 in every entry",
        lambda std: min(std) > 0 and max(std) <= 1,
        "DATA.STD",
        fix="divide values from 0 to 255 by 255",
    ),
    *each(
        "must be empty or a range (low, high) above 0",
        is_range,
        "DATA.TRAIN_JITTER_SCALES_RELATIVE",
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
    ),
    *each(
        "must be at most 1, as fractions of the area of the frame",
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
        "must be a range (low, high) of at least DATA.TRAIN_CROP_SIZE without relative scales",
        lambda sides, crop, scales: bool(scales) or crop <= sides[0] <= sides[1],
    ),
    Rule(
        ("DATA.VAL_SHORT_SIDE", "DATA.TRAIN_CROP_SIZE"),
        "must be at least DATA.TRAIN_CROP_SIZE, which is cropped from it",
        lambda side, crop: side >= crop,
    ),
    Rule(
        ("DATA.VAL_SHORT_SIDE", "DATA.TEST_CROP_SIZE", "TEST.NUM_SPATIAL_CROPS"),
        "must be at least DATA.TEST_CROP_SIZE, which is cropped from it in tests with 1 crop",
        lambda side, crop, crops: crops > 1 or side >= crop,
        when="TEST.ENABLE",
    ),
    # Augmentation. AUG.AA_TYPE is checked when the policy is built.
    *at_least(1, "AUG.NUM_SAMPLE", "AUG.RE_COUNT"),
    Rule(
        ("AUG.ENABLE", "AUG.NUM_SAMPLE"),
        "must be true if AUG.NUM_SAMPLE is above 1",
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
        "must be above 0 if MIXUP.CUTMIX_ALPHA is 0",
        lambda mixup, cutmix: mixup > 0 or cutmix > 0,
        when="MIXUP.ENABLE",
        fix="set MIXUP.ENABLE false for label smoothing only",
    ),
    Rule(
        ("TRAIN.BATCH_SIZE", "NUM_GPUS"),
        "must be at least 2 x NUM_GPUS if MIXUP.ENABLE is true",
        lambda batch, ranks: batch >= 2 * ranks,
        when="MIXUP.ENABLE",
    ),
)


SOLVER_RULES: tuple[Rule, ...] = (
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
        "must be below SOLVER.MAX_EPOCH if SOLVER.COSINE_AFTER_WARMUP is true",
        lambda warmup, last: warmup < last,
        when="SOLVER.COSINE_AFTER_WARMUP",
    ),
    Rule(
        ("SOLVER.LRS", "SOLVER.STEPS"),
        "must have as many entries as SOLVER.STEPS",
        lambda factors, steps: len(factors) == len(steps),
    ),
    *each("must start with 0 and increase", _increases_from_zero, "SOLVER.STEPS"),
    *each("must be above 0 and at most 1", lambda decay: 0 < decay <= 1, "SOLVER.LAYER_DECAY"),
    Rule(
        ("SOLVER.LAYER_DECAY", "MODEL.ARCH"),
        'must be 1 with MODEL.ARCH "ptv", whose parameters have no layer ids',
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
        "must be false if SOLVER.MOMENTUM is 0",
        lambda nesterov, momentum, method: method != "sgd" or not nesterov or momentum > 0,
    ),
)
