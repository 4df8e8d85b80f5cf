"""Rules over config values, and the tables of those over processes, training, testing and data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A sentence about one or more keys, and the test of it.

    Attributes:
        keys: the keys concerned; ``holds`` gets their values in this order, and the sentence is
            about the first one, which is the one to mend.
        text: what must hold: "must be a multiple of NUM_GPUS".
        holds: says whether it does; may take for granted that all earlier rules hold.
        when: a boolean key without which the rule does not matter.
        mend: what to do, where ``text`` does not say it already.
    """

    keys: tuple[str, ...]
    text: str
    holds: Callable[..., bool]
    when: str = ""
    fix: str = ""

    def is_broken(self, values: Mapping[str, Any]) -> bool:
        """Say whether ``values``, {dotted key: value}, break the rule."""
        applies = not self.when or values[self.when]
        return bool(applies) and not self.holds(*(values[key] for key in self.keys))

    def describe(self, values: Mapping[str, Any], *, origins: Mapping[str, str]) -> str:
        """Say in a sentence what must hold, what stands there instead, and from where."""
        first, *others = self.keys
        shown = [f"it is {_show(values[first])} ({origins.get(first, 'default')})"]
        shown += [
            f"{key} is {_show(values[key])} ({origins.get(key, 'default')})" for key in others
        ]
        fix = f": {self.fix}" if self.fix else ""
        return f"{first} {self.text}, but {' and '.join(shown)}{fix}"


def one_of(key: str, *choices: object) -> Rule:
    """Require one of a few values."""
    names = [_show(choice) for choice in choices]
    *most, last = names
    text = f"must be {', '.join(most)} or {last}" if most else f"must be {last}"
    return Rule((key,), text, lambda value: value in choices)


def at_least(low: float, *keys: str, fix: str = "") -> tuple[Rule, ...]:
    """Require a lowest value of each key."""
    return each(f"must be at least {low}", lambda value: value >= low, *keys, fix=fix)


def entries_at_least(low: float, *keys: str) -> tuple[Rule, ...]:
    """Require a lowest value of every entry of each key."""
    return each(
        f"must be at least {low} in every entry", lambda value: all(v >= low for v in value), *keys
    )


def length(size: int, *keys: str) -> tuple[Rule, ...]:
    """Require a number of entries of each key."""
    return each(f"must have {size} entries", lambda value: len(value) == size, *keys)


def each(text: str, holds: Callable[[Any], bool], *keys: str, fix: str = "") -> tuple[Rule, ...]:
    """State the same rule for each of several keys."""
    return tuple(Rule((key,), text, holds, fix=fix) for key in keys)


def is_range(values: tuple[float, ...]) -> bool:
    """Say whether values are a lowest and a highest one above 0, or none."""
    return not values or (len(values) == 2 and 0 < values[0] <= values[1])


def is_swin(arch: str) -> bool:
    """Say whether MODEL.ARCH is a Swin, or has one as its backbone."""
    return arch in ("swin", "cascade_mask_rcnn")


def _show(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# In order, as all rules.
RUN_RULES: tuple[Rule, ...] = (
    # Processes and machines.
    one_of("DEVICE", "cuda", "cpu", "auto"),
    one_of("DIST_BACKEND", "auto", "nccl", "gloo"),
    Rule(
        ("DIST_BACKEND", "DEVICE"),
        'must not be "nccl" with DEVICE cpu',
        lambda backend, device: (backend, device) != ("nccl", "cpu"),
        fix='write "auto" or "gloo"',
    ),
    *at_least(1, "NUM_GPUS", fix="for a run on the CPU write DEVICE cpu and NUM_GPUS 1"),
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
)


def _climbs_from_zero(steps: tuple[int, ...]) -> bool:
    return steps[:1] == (0,) and all(early < late for early, late in pairwise(steps))


# In order, as all rules.
SOLVER_RULES: tuple[Rule, ...] = (
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


# In order, as all rules.
DATA_RULES: tuple[Rule, ...] = (
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
    *(
        Rule(
            ("SWIN.PATCH_SIZE", f"{part}.DATASET", "MODEL.ARCH"),
            "must be of 1 frame for images",
            lambda patch, name, arch: patch[0] == 1 or name != "imagenet" or arch != "swin",
            when=f"{part}.ENABLE",
        )
        for part in ("TRAIN", "TEST")
    ),
    one_of("DATA.ENSEMBLE_METHOD", "sum", "max"),
    *length(3, "DATA.MEAN", "DATA.STD"),
    *each(
        "must be from 0 to 1 in every entry, as pixels are",
        lambda mean: min(mean) >= 0 and max(mean) <= 1,
        "DATA.MEAN",
        fix="divide values of 0 to 255 by 255",
    ),
    *each(
        "must be above 0 and at most 1 in every entry",
        lambda std: min(std) > 0 and max(std) <= 1,
        "DATA.STD",
        fix="divide values of 0 to 255 by 255",
    ),
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
        fix="to smooth labels alone, write MIXUP.ENABLE false",
    ),
    Rule(
        ("TRAIN.BATCH_SIZE", "NUM_GPUS"),
        "must be at least 2 for each of NUM_GPUS, as MIXUP.ENABLE is true",
        lambda batch, ranks: batch >= 2 * ranks,
        when="MIXUP.ENABLE",
    ),
)
