"""The rules over the keys of processes, of training and of testing."""

from stvit_video.config.rules import (
    Rule,
    at_least,
    each,
    one_of,
)

# In order, as all rules.
RUN_RULES: tuple[Rule, ...] = (
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
