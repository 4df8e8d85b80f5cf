"""The rules over the keys of dense models."""

from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    entries_at_least,
    length,
    one_of,
)


def _heads_divide_channels(heads: tuple[int, ...], channels: int) -> bool:
    return all(channels * 2**stage % count == 0 for stage, count in enumerate(heads))


def _multiple_with(family: str, number: int, key: str) -> Rule:
    return Rule(
        (key, "MODEL.MODEL_NAME"),
        f"must be a multiple of {number} with this model",
        lambda value, name: not name.startswith(family) or value % number == 0,
    )


# In order, as all rules.
MODEL_RULES: tuple[Rule, ...] = (
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
)
