"""The rules over the keys of clips and of their augmentation."""

from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    is_range,
    length,
    one_of,
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
        mend="divide values of 0 to 255 by 255",
    ),
    *each(
        "must be above 0 and at most 1 in every entry",
        lambda std: min(std) > 0 and max(std) <= 1,
        "DATA.STD",
        mend="divide values of 0 to 255 by 255",
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
        mend="to smooth labels alone, write MIXUP.ENABLE false",
    ),
    Rule(
        ("TRAIN.BATCH_SIZE", "NUM_GPUS"),
        "must be at least 2 for each of NUM_GPUS, as MIXUP.ENABLE is true",
        lambda batch, ranks: batch >= 2 * ranks,
        when="MIXUP.ENABLE",
    ),
)
