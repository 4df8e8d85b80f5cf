"""The rules over the keys of semantic tokens."""

import math

from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    entries_at_least,
    is_swin,
    one_of,
)


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


# In order, as all rules.
SEMANTIC_RULES: tuple[Rule, ...] = (
    # Semantic tokens.
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
        ("STVIT.KEY_WINDOWS", "MODEL.ARCH"),
        "must be 0 with DeiT, whose frame is one window",
        lambda sides, arch: arch != "deit" or not any(sides),
        when="STVIT.ENABLE",
    ),
    Rule(
        ("STVIT.CROSS_WINDOW", "STVIT.TEMPORAL_WINDOW", "MODEL.ARCH"),
        "must be 0 with DeiT, whose frame is one window, and where STVIT.TEMPORAL_WINDOW is not 1",
        lambda side, frames, arch: not side or (frames == 1 and is_swin(arch)),
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
        'must be "none" where STVIT.BORDER is not "move": centered windows hold image tokens alone',
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
)
