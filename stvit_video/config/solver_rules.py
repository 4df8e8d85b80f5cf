"""The rules over the keys of the optimizer and its schedule."""

from itertools import pairwise

from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    entries_at_least,
    length,
    one_of,
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
