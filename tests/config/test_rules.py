"""Test that each rule for config values rejects an invalid config with one sentence."""

from pathlib import Path

import pytest

from stvit_video.config import load_config
from stvit_video.config.defaults import default_config
from stvit_video.config.keys import flatten
from stvit_video.config.load import RULES
from stvit_video.errors import UserError

DETECTOR = (
    "MODEL.ARCH=cascade_mask_rcnn TRAIN.DATASET=coco TEST.DATASET=coco DATA.NUM_FRAMES=1 "
    "SWIN.PATCH_SIZE=[1,4,4]"
)
SEMANTIC_DEIT = "MODEL.ARCH=deit STVIT.ENABLE=true DEIT.CLASS_TOKEN=false STVIT.KEY_WINDOWS=[0,0]"
# Overrides that break a rule, and the beginning of the error message.
INVALID = [
    ("DEVICE=gpu", 'DEVICE must be "cuda", "cpu" or "auto", but it is "gpu" (override)'),
    ("DIST_BACKEND=mpi", 'DIST_BACKEND must be "auto", "nccl" or "gloo", but it is "mpi"'),
    ("DIST_BACKEND=nccl DEVICE=cpu", 'DIST_BACKEND must not be "nccl" with DEVICE cpu, but'),
    ("NUM_GPUS=0", "NUM_GPUS must be at least 1, but it is 0 (override): set DEVICE cpu"),
    ("NUM_SHARDS=0", "NUM_SHARDS must be at least 1"),
    ("LOG_PERIOD=0", "LOG_PERIOD must be at least 1"),
    (
        "SHARD_ID=2 NUM_SHARDS=2",
        "SHARD_ID must be from 0 to NUM_SHARDS - 1, but it is 2 (override) and NUM_SHARDS is 2",
    ),
    ("SHARD_ID=-1", "SHARD_ID must be from 0 to NUM_SHARDS - 1, but it is -1"),
    ("RNG_SEED=-1", "RNG_SEED must be from 0 to 2147483647"),
    ("RNG_SEED=2147483648", "RNG_SEED must be from 0 to 2147483647"),
    ("DATA_LOADER.NUM_WORKERS=-1", "DATA_LOADER.NUM_WORKERS must be at least 0"),
    ("OUTPUT_DIR=", 'OUTPUT_DIR must not be empty, but it is ""'),
    ("DATA.PATH_LABEL_SEPARATOR=", "DATA.PATH_LABEL_SEPARATOR must not be empty"),
    ("TRAIN.BATCH_SIZE=0", "TRAIN.BATCH_SIZE must be at least 1"),
    ("TRAIN.EVAL_PERIOD=0", "TRAIN.EVAL_PERIOD must be at least 1"),
    ("TRAIN.CHECKPOINT_PERIOD=0", "TRAIN.CHECKPOINT_PERIOD must be at least 1"),
    ("TRAIN.ACCUMULATE_STEPS=0", "TRAIN.ACCUMULATE_STEPS must be at least 1"),
    ("TEST.BATCH_SIZE=0", "TEST.BATCH_SIZE must be at least 1"),
    ("TEST.NUM_ENSEMBLE_VIEWS=0", "TEST.NUM_ENSEMBLE_VIEWS must be at least 1"),
    (
        "TRAIN.BATCH_SIZE=10 NUM_GPUS=4",
        "TRAIN.BATCH_SIZE must be a multiple of NUM_GPUS, but it is 10 (override) and "
        "NUM_GPUS is 4 (override)",
    ),
    ("TEST.BATCH_SIZE=5 NUM_GPUS=2", "TEST.BATCH_SIZE must be a multiple of NUM_GPUS"),
    ("TRAIN.CHECKPOINT_MIN_SHARE=1.5", "TRAIN.CHECKPOINT_MIN_SHARE must be from 0 to 1"),
    (
        "TRAIN.MIXED_PRECISION_DTYPE=fp16",
        'TRAIN.MIXED_PRECISION_DTYPE must be "bfloat16" or "float16"',
    ),
    ("TEST.NUM_SPATIAL_CROPS=5", "TEST.NUM_SPATIAL_CROPS must be 1 or 3, but it is 5"),
    ("DATA.NUM_FRAMES=0", "DATA.NUM_FRAMES must be at least 1"),
    ("DATA.SAMPLING_RATE=0", "DATA.SAMPLING_RATE must be at least 1"),
    ("DATA.TRAIN_CROP_SIZE=0", "DATA.TRAIN_CROP_SIZE must be at least 1"),
    ("DATA.VAL_SHORT_SIDE=0", "DATA.VAL_SHORT_SIDE must be at least 1"),
    ("DATA.TEST_CROP_SIZE=-224", "DATA.TEST_CROP_SIZE must be at least 1"),
    ("DATA.TARGET_FPS=-1", "DATA.TARGET_FPS must be at least 0"),
    ("DATA.DECODE_TIMEOUT=-1", "DATA.DECODE_TIMEOUT must be at least 0"),
    ("DATA.MAX_BAD_VIDEOS=-1", "DATA.MAX_BAD_VIDEOS must be at least 0"),
    ("DATA.SAMPLING_PROTOCOL=slowfast", "DATA.SAMPLING_PROTOCOL must be"),
    ("DATA.DECODING_BACKEND=opencv", 'DATA.DECODING_BACKEND must be "pyav" or "decord"'),
    ("DATA.ENSEMBLE_METHOD=mean", 'DATA.ENSEMBLE_METHOD must be "sum" or "max"'),
    ("DATA.MEAN=[0.5]", "DATA.MEAN must have 3 entries, but it is (0.5,)"),
    ("DATA.STD=[1,1,1,1]", "DATA.STD must have 3 entries"),
    ("DATA.STD=[1,0,1]", "DATA.STD must be above 0 and at most 1 in every entry"),
    ("DATA.STD=[58.4,57.1,57.4]", "DATA.STD must be above 0 and at most 1 in every entry"),
    (
        "DATA.MEAN=[123.7,116.3,103.5]",
        "DATA.MEAN must be from 0 to 1 in every entry, but it is (123.7, 116.3, 103.5) "
        "(override): divide values from 0 to 255 by 255",
    ),
    ("DATA.MEAN=[-0.1,0,0]", "DATA.MEAN must be from 0 to 1 in every entry"),
    (
        "TRAIN.DATASET=imagenet DATA.NUM_FRAMES=1",
        "SWIN.PATCH_SIZE must have 1 frame for images, but it is (2, 4, 4)",
    ),
    (
        "DATA.TRAIN_JITTER_SCALES_RELATIVE=[1.0,0.08]",
        "DATA.TRAIN_JITTER_SCALES_RELATIVE must be empty or a range (low, high) above 0",
    ),
    (
        "DATA.TRAIN_JITTER_SCALES_RELATIVE=[0,1]",
        "DATA.TRAIN_JITTER_SCALES_RELATIVE must be empty or a range",
    ),
    ("DATA.TRAIN_JITTER_SCALES_RELATIVE=[1]", "DATA.TRAIN_JITTER_SCALES_RELATIVE must be empty or"),
    (
        "DATA.TRAIN_JITTER_SCALES_RELATIVE=[0.08,1.1]",
        "DATA.TRAIN_JITTER_SCALES_RELATIVE must be at most 1, as fractions",
    ),
    (
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE=[2,1]",
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE must be empty or a range",
    ),
    ("DATA.TRAIN_JITTER_ASPECT_RELATIVE=[]", "DATA.TRAIN_JITTER_ASPECT_RELATIVE must be empty if"),
    ("DATA.TRAIN_JITTER_SCALES=[256]", "DATA.TRAIN_JITTER_SCALES must have 2 entries"),
    (
        "DATA.TRAIN_JITTER_SCALES=[200,320] DATA.TRAIN_JITTER_SCALES_RELATIVE=[] "
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE=[]",
        "DATA.TRAIN_JITTER_SCALES must be a range (low, high) of at least DATA.TRAIN_CROP_SIZE",
    ),
    ("DATA.VAL_SHORT_SIDE=200", "DATA.VAL_SHORT_SIDE must be at least DATA.TRAIN_CROP_SIZE"),
    (
        "DATA.TEST_CROP_SIZE=300 TEST.NUM_SPATIAL_CROPS=1",
        "DATA.VAL_SHORT_SIDE must be at least DATA.TEST_CROP_SIZE",
    ),
    ("MODEL.NUM_CLASSES=1", "MODEL.NUM_CLASSES must be at least 2"),
    ("AUG.NUM_SAMPLE=0", "AUG.NUM_SAMPLE must be at least 1"),
    ("AUG.RE_COUNT=0", "AUG.RE_COUNT must be at least 1"),
    ("AUG.NUM_SAMPLE=2", "AUG.ENABLE must be true if AUG.NUM_SAMPLE is above 1, but it is"),
    ("AUG.INTERPOLATION=area", 'AUG.INTERPOLATION must be "bilinear" or "bicubic"'),
    ("AUG.RE_MODE=noise", 'AUG.RE_MODE must be "pixel", "rand" or "const"'),
    ("AUG.COLOR_JITTER=1.1", "AUG.COLOR_JITTER must be from 0 to 1"),
    ("AUG.RE_PROB=-0.1", "AUG.RE_PROB must be from 0 to 1"),
    ("MIXUP.PROB=2", "MIXUP.PROB must be from 0 to 1"),
    ("MIXUP.SWITCH_PROB=-1", "MIXUP.SWITCH_PROB must be from 0 to 1"),
    ("MIXUP.ALPHA=-1", "MIXUP.ALPHA must be at least 0"),
    ("MIXUP.CUTMIX_ALPHA=-1", "MIXUP.CUTMIX_ALPHA must be at least 0"),
    ("MIXUP.LABEL_SMOOTH_VALUE=1", "MIXUP.LABEL_SMOOTH_VALUE must be at least 0 and below 1"),
    (
        "MIXUP.ENABLE=true MIXUP.ALPHA=0 MIXUP.CUTMIX_ALPHA=0",
        "MIXUP.ALPHA must be above 0 if MIXUP.CUTMIX_ALPHA is 0",
    ),
    (
        "MIXUP.ENABLE=true TRAIN.BATCH_SIZE=4 NUM_GPUS=4",
        "TRAIN.BATCH_SIZE must be at least 2 x NUM_GPUS if MIXUP.ENABLE is true",
    ),
    (
        "MIXUP.ENABLE=true",
        'MODEL.LOSS_FUNC must be "soft_cross_entropy" if MIXUP.ENABLE is true, but it is',
    ),
    ("MODEL.LOSS_FUNC=bce", 'MODEL.LOSS_FUNC must be "cross_entropy" or "soft_cross_entropy"'),
    ("MODEL.HEAD_ACT=relu", 'MODEL.HEAD_ACT must be "softmax", "sigmoid" or "none"'),
    ("MODEL.DROPOUT_RATE=1", "MODEL.DROPOUT_RATE must be at least 0 and below 1, but it is 1.0"),
    ("MODEL.DROPCONNECT_RATE=-0.1", "MODEL.DROPCONNECT_RATE must be at least 0 and below 1"),
    ("SOLVER.MOMENTUM=1", "SOLVER.MOMENTUM must be at least 0 and below 1"),
    ("MODEL.FC_INIT_STD=-1", "MODEL.FC_INIT_STD must be at least 0"),
    (
        "MODEL.MODEL_NAME=x3d_m MODEL.DROPCONNECT_RATE=0",
        'MODEL.MODEL_NAME must be empty unless MODEL.ARCH is "ptv", but it is "x3d_m" (override)',
    ),
    ("STVIT.ENABLE=true MODEL.ARCH=ptv", 'STVIT.ENABLE must be false with MODEL.ARCH "ptv", whose'),
    (
        "MODEL.ARCH=ptv MODEL.MODEL_NAME=x3d_m",
        "MODEL.DROPCONNECT_RATE must be 0 with a convolutional model of PyTorchVideo, which has no "
        'stochastic depth, but it is 0.1 (default) and MODEL.MODEL_NAME is "x3d_m" (override)',
    ),
    (
        "MODEL.ARCH=ptv MODEL.MODEL_NAME=slowfast_r50 MODEL.DROPCONNECT_RATE=0 DATA.NUM_FRAMES=30",
        "DATA.NUM_FRAMES must be a multiple of 4 with this model, but it is 30 (override) and "
        'MODEL.MODEL_NAME is "slowfast_r50"',
    ),
    (
        "MODEL.ARCH=ptv MODEL.MODEL_NAME=mvit_base_16x4 DATA.NUM_FRAMES=15",
        "DATA.NUM_FRAMES must be a multiple of 2 with this model",
    ),
    (
        "MODEL.ARCH=ptv MODEL.MODEL_NAME=mvit_base_16x4 DATA.TRAIN_CROP_SIZE=222",
        "DATA.TRAIN_CROP_SIZE must be a multiple of 4 with this model",
    ),
    (
        "MODEL.ARCH=ptv MODEL.MODEL_NAME=mvit_base_16x4 DATA.TEST_CROP_SIZE=256",
        "DATA.TEST_CROP_SIZE must equal DATA.TRAIN_CROP_SIZE, because the position "
        "embeddings have that size, but it is 256",
    ),
    ("SWIN.PATCH_SIZE=[4,4]", "SWIN.PATCH_SIZE must have 3 entries"),
    ("SWIN.WINDOW_SIZE=[7,7]", "SWIN.WINDOW_SIZE must have 3 entries"),
    ("SWIN.DEPTHS=[]", "SWIN.DEPTHS must not be empty"),
    ("STVIT.KEY_WINDOWS=[]", "STVIT.KEY_WINDOWS must not be empty"),
    ("SWIN.PATCH_SIZE=[2,0,4]", "SWIN.PATCH_SIZE must be at least 1 in every entry"),
    ("SWIN.WINDOW_SIZE=[8,7,0]", "SWIN.WINDOW_SIZE must be at least 1 in every entry"),
    ("SWIN.DEPTHS=[2,0,6,2]", "SWIN.DEPTHS must be at least 1 in every entry"),
    ("SWIN.NUM_HEADS=[3,0,12,24]", "SWIN.NUM_HEADS must be at least 1 in every entry"),
    ("SWIN.EMBED_DIM=0", "SWIN.EMBED_DIM must be at least 1"),
    ("SWIN.MLP_RATIO=0", "SWIN.MLP_RATIO must be above 0"),
    ("SOLVER.BASE_LR=0", "SOLVER.BASE_LR must be above 0"),
    ("SWIN.NUM_HEADS=[3,6,12]", "SWIN.NUM_HEADS must have as many entries as SWIN.DEPTHS"),
    ("SWIN.NUM_HEADS=[3,6,12,7]", "SWIN.NUM_HEADS must divide the channels of each stage"),
    ("SWIN.EMBED_DIM=100", "SWIN.NUM_HEADS must divide the channels of each stage"),
    ("SWIN.STEM=resnet", 'SWIN.STEM must be "patch" or "conv"'),
    ("SWIN.STEM=conv", 'SWIN.STEM must be "patch" unless SWIN.PATCH_SIZE is (1, 4, 4)'),
    ("DEIT.PATCH_SIZE=[16]", "DEIT.PATCH_SIZE must have 2 entries"),
    ("DEIT.PATCH_SIZE=[16,0]", "DEIT.PATCH_SIZE must be at least 1 in every entry"),
    ("DEIT.DEPTH=0", "DEIT.DEPTH must be at least 1"),
    ("DEIT.EMBED_DIM=0", "DEIT.EMBED_DIM must be at least 1"),
    ("DEIT.NUM_HEADS=0", "DEIT.NUM_HEADS must be at least 1"),
    ("DEIT.MLP_RATIO=0", "DEIT.MLP_RATIO must be above 0"),
    ("DEIT.NUM_HEADS=5", "DEIT.NUM_HEADS must divide DEIT.EMBED_DIM"),
    (
        f"{SEMANTIC_DEIT} STVIT.NUM_TOKENS=225",
        "STVIT.NUM_TOKENS must be at most the number of image tokens in a frame",
    ),
    (
        f"{SEMANTIC_DEIT} DATA.TEST_CROP_SIZE=32",
        "STVIT.NUM_TOKENS must be at most the number of image tokens in a test frame",
    ),
    (
        "MODEL.ARCH=deit STVIT.ENABLE=true STVIT.KEY_WINDOWS=[0,0]",
        "DEIT.CLASS_TOKEN must be false with semantic tokens",
    ),
    ("STVIT.INITIALIZATION=random", 'STVIT.INITIALIZATION must be "spatial", "global"'),
    ("STVIT.SEMANTIC_KEYS=some", 'STVIT.SEMANTIC_KEYS must be "all", "later" or "none"'),
    ("DATA.INTERPOLATION=nearest", 'DATA.INTERPOLATION must be "bilinear" or "bicubic"'),
    ("TRAIN.DATASET=imagenet", "DATA.NUM_FRAMES must be 1 for images"),
    ("STVIT.POOLING=mean", 'STVIT.POOLING must be "intra_inter", "average" or "max"'),
    ("STVIT.NUM_TOKENS=0", "STVIT.NUM_TOKENS must be at least 1"),
    ("STVIT.TEMPORAL_WINDOW=0", "STVIT.TEMPORAL_WINDOW must be at least 1"),
    ("STVIT.LAYER_SCALE_INIT=-1", "STVIT.LAYER_SCALE_INIT must be at least 0"),
    ("STVIT.KEY_WINDOWS=[10,-1]", "STVIT.KEY_WINDOWS must be at least 0 in every entry"),
    ("STVIT.NUM_TOKENS=8", "STVIT.NUM_TOKENS must be a square number, but it is 8"),
    ("STVIT.GLOBAL_WINDOWS=-1", "STVIT.GLOBAL_WINDOWS must be at least 0"),
    ("STVIT.CROSS_WINDOW=-1", "STVIT.CROSS_WINDOW must be at least 0"),
    ("STVIT.BORDER=pad", 'STVIT.BORDER must be "move", "cut", "released" or "released_unmasked"'),
    ("STVIT.RECOVERY_WINDOW=-1", "STVIT.RECOVERY_WINDOW must be at least 0"),
    ("STVIT.ENABLE=true STVIT.RECOVERY_WINDOW=2", "STVIT.RECOVERY_WINDOW must be 0, or with Swin"),
    (
        "MODEL.ARCH=deit STVIT.ENABLE=true DEIT.CLASS_TOKEN=false STVIT.BORDER=cut "
        "STVIT.SEMANTIC_KEYS=none",
        'STVIT.BORDER must be "move" with DeiT, whose frame is one window',
    ),
    (
        f"{SEMANTIC_DEIT} STVIT.KEY_WINDOWS=[10,14]",
        "STVIT.KEY_WINDOWS must be 0 with DeiT, whose frame is one window",
    ),
    (
        f"{SEMANTIC_DEIT} STVIT.CROSS_WINDOW=4",
        "STVIT.CROSS_WINDOW must be 0 with DeiT, whose frame",
    ),
    (
        "STVIT.ENABLE=true STVIT.CROSS_WINDOW=4 STVIT.TEMPORAL_WINDOW=2",
        "STVIT.CROSS_WINDOW must be 0 with DeiT, whose frame is one window, and if",
    ),
    (
        "STVIT.ENABLE=true STVIT.RELEASED_GLOBAL=true STVIT.INITIALIZATION=spatial",
        'STVIT.RELEASED_GLOBAL must be false unless STVIT.INITIALIZATION is "spatial+global"',
    ),
    (
        "STVIT.ENABLE=true STVIT.REUSE_TOKENS=true MODEL.ACT_CHECKPOINT=true",
        "STVIT.REUSE_TOKENS must be false with MODEL.ACT_CHECKPOINT",
    ),
    (
        f"{SEMANTIC_DEIT} STVIT.GLOBAL_WINDOWS=2",
        "STVIT.GLOBAL_WINDOWS must be 0 with DeiT, whose frame is one window",
    ),
    (
        "STVIT.ENABLE=true STVIT.BORDER=cut STVIT.KEY_WINDOWS=[14,21]",
        'STVIT.SEMANTIC_KEYS must be "none" if STVIT.BORDER is not "move": centered windows',
    ),
    (
        "STVIT.ENABLE=true STVIT.BORDER=cut STVIT.SEMANTIC_KEYS=none STVIT.KEY_WINDOWS=[6,21]",
        "STVIT.KEY_WINDOWS must be 0 or at least the rows of SWIN.WINDOW_SIZE if",
    ),
    (
        "STVIT.ENABLE=true STVIT.BORDER=released STVIT.SEMANTIC_KEYS=none",
        'STVIT.BORDER must be "move" or "cut" if a window is 0',
    ),
    ("STVIT.ENABLE=true STVIT.STAGE=5", "STVIT.STAGE must be a stage in SWIN.DEPTHS, counted"),
    ("STVIT.ENABLE=true STVIT.STAGE=0", "STVIT.STAGE must be a stage in SWIN.DEPTHS, counted"),
    (
        "STVIT.ENABLE=true STVIT.NUM_TOKENS=64",
        "STVIT.NUM_TOKENS must be at most the number of image tokens in a window",
    ),
    ("SOLVER.OPTIMIZING_METHOD=adam", 'SOLVER.OPTIMIZING_METHOD must be "adamw" or "sgd"'),
    ("SOLVER.LR_POLICY=step", "SOLVER.LR_POLICY must be"),
    ("SOLVER.MAX_EPOCH=0", "SOLVER.MAX_EPOCH must be at least 1"),
    ("SOLVER.COSINE_END_LR=-1", "SOLVER.COSINE_END_LR must be at least 0"),
    ("SOLVER.WARMUP_EPOCHS=-1", "SOLVER.WARMUP_EPOCHS must be at least 0"),
    ("SOLVER.WARMUP_START_LR=-1", "SOLVER.WARMUP_START_LR must be at least 0"),
    ("SOLVER.WEIGHT_DECAY=-1", "SOLVER.WEIGHT_DECAY must be at least 0"),
    ("SOLVER.BACKBONE_LR_FACTOR=-1", "SOLVER.BACKBONE_LR_FACTOR must be at least 0"),
    ("SOLVER.CLIP_GRAD_VAL=-1", "SOLVER.CLIP_GRAD_VAL must be at least 0"),
    ("SOLVER.CLIP_GRAD_L2NORM=-1", "SOLVER.CLIP_GRAD_L2NORM must be at least 0"),
    (
        "SOLVER.MAX_EPOCH=2",
        "SOLVER.WARMUP_EPOCHS must be at most SOLVER.MAX_EPOCH, but it is 2.5 (default) and "
        "SOLVER.MAX_EPOCH is 2 (override)",
    ),
    (
        "SOLVER.WARMUP_EPOCHS=30 SOLVER.COSINE_AFTER_WARMUP=true",
        "SOLVER.WARMUP_EPOCHS must be below SOLVER.MAX_EPOCH",
    ),
    ("SOLVER.LRS=[1,0.1]", "SOLVER.LRS must have as many entries as SOLVER.STEPS"),
    ("SOLVER.STEPS=[5,10] SOLVER.LRS=[1,1]", "SOLVER.STEPS must start with 0 and increase"),
    ("SOLVER.STEPS=[0,9,9] SOLVER.LRS=[1,1,1]", "SOLVER.STEPS must start with 0 and increase"),
    ("SOLVER.STEPS=[] SOLVER.LRS=[]", "SOLVER.STEPS must start with 0 and increase"),
    ("SOLVER.LRS=[-1]", "SOLVER.LRS must be at least 0 in every entry"),
    ("TRAIN.CHECKPOINT_STEPS=-1", "TRAIN.CHECKPOINT_STEPS must be at least 0"),
    ("TRAIN.KEEP_BEST=-1", "TRAIN.KEEP_BEST must be at least 0"),
    (
        "TRAIN.KEEP_BEST=0 TEST.CHECKPOINT_FILE_PATH=best",
        'TRAIN.KEEP_BEST must be at least 1 if TEST.CHECKPOINT_FILE_PATH is "best", but it is 0',
    ),
    ("TRAIN.KEEP_LAST=1", "TRAIN.KEEP_LAST must be at least 2, or 0 for all, but it is 1"),
    ("TRAIN.KEEP_LAST=-1", "TRAIN.KEEP_LAST must be at least 2, or 0 for all"),
    (
        "TRAIN.KILL_LOSS_EXPLOSION_FACTOR=0.5",
        "TRAIN.KILL_LOSS_EXPLOSION_FACTOR must be above 1, or 0 for no limit",
    ),
    ("MODEL.COMPILE_BACKEND=tensorrt", 'MODEL.COMPILE_BACKEND must be "inductor", "aot_eager" or'),
    ("MODEL.PARAM_DTYPE=float16", 'MODEL.PARAM_DTYPE must be "float32" or "bfloat16"'),
    (
        "MODEL.PARAM_DTYPE=bfloat16 TRAIN.MIXED_PRECISION=true",
        "MODEL.PARAM_DTYPE must be float32 with TRAIN.MIXED_PRECISION",
    ),
    ("MODEL.ACT_CHECKPOINT=true MODEL.ARCH=ptv", "MODEL.ACT_CHECKPOINT must be false with MODEL"),
    ("SOLVER.LAYER_DECAY=0.9 MODEL.ARCH=ptv", 'SOLVER.LAYER_DECAY must be 1 with MODEL.ARCH "ptv"'),
    ("SOLVER.LAYER_DECAY=0", "SOLVER.LAYER_DECAY must be above 0 and at most 1"),
    ("SOLVER.LAYER_DECAY=1.1", "SOLVER.LAYER_DECAY must be above 0 and at most 1"),
    ("EMA.DECAY=1", "EMA.DECAY must be above 0 and below 1"),
    ("EMA.DECAY=0", "EMA.DECAY must be above 0 and below 1"),
    ("SOLVER.BETAS=[0.9]", "SOLVER.BETAS must have 2 entries"),
    ("SOLVER.BETAS=[0.9,1]", "SOLVER.BETAS must be at least 0 and below 1 in every entry"),
    (
        "SOLVER.OPTIMIZING_METHOD=sgd SOLVER.MOMENTUM=0",
        "SOLVER.NESTEROV must be false if SOLVER.MOMENTUM is 0",
    ),
    (
        "TRAIN.DATASET=coco DATA.NUM_FRAMES=1",
        'TRAIN.DATASET must be "coco" if and only if MODEL.ARCH is',
    ),
    ("TEST.DATASET=coco", "DATA.NUM_FRAMES must be 1 for images, but it is 32"),
    (
        "TEST.DATASET=coco DATA.NUM_FRAMES=1",
        'TEST.DATASET must be "coco" if and only if MODEL.ARCH is "cascade_mask_rcnn"',
    ),
    *(
        (f"{DETECTOR} {key}=true", f'{key} must be false with MODEL.ARCH "cascade_mask_rcnn"')
        for key in ("AUG.ENABLE", "MODEL.COMPILE")
    ),
    (
        f"{DETECTOR} MIXUP.ENABLE=true MODEL.LOSS_FUNC=soft_cross_entropy",
        'MIXUP.ENABLE must be false with MODEL.ARCH "cascade_mask_rcnn"',
    ),
    (
        f"{DETECTOR} MODEL.PARAM_DTYPE=bfloat16",
        'MODEL.PARAM_DTYPE must be "float32" with MODEL.ARCH "cascade_mask_rcnn"',
    ),
    (
        f"{DETECTOR} SWIN.PATCH_SIZE=[2,4,4]",
        "SWIN.PATCH_SIZE must have 1 frame with MODEL.ARCH",
    ),
    (
        f"{DETECTOR} SWIN.PATCH_SIZE=[1,3,3]",
        "SWIN.PATCH_SIZE must have equal rows and columns of 1, 2 or 4 with MODEL.ARCH",
    ),
    (
        f"{DETECTOR} SOLVER.BACKBONE_LR_FACTOR=0.1",
        'SOLVER.BACKBONE_LR_FACTOR must be 1 with MODEL.ARCH "cascade_mask_rcnn"',
    ),
    (
        f"{DETECTOR} SOLVER.LAYER_DECAY=0.9",
        'SOLVER.LAYER_DECAY must be 1 with MODEL.ARCH "cascade_mask_rcnn"',
    ),
    ("DETECTION.SPLITS=[train,val]", "DETECTION.SPLITS must have 3 entries"),
    ("DETECTION.NUM_PROPOSALS=[1]", "DETECTION.NUM_PROPOSALS must have 2 entries"),
    ("DETECTION.TRAIN_SHORT_SIDES=[]", "DETECTION.TRAIN_SHORT_SIDES must not be empty"),
    ("DETECTION.IOU_THRESHOLDS=[]", "DETECTION.IOU_THRESHOLDS must not be empty"),
    *(
        (f"DETECTION.{key}=[0,1]", f"DETECTION.{key} must be at least 1 in every entry")
        for key in ("TRAIN_SHORT_SIDES", "CROP_SHORT_SIDES", "ANCHOR_SIZES", "NUM_PROPOSALS")
    ),
    *(
        (f"DETECTION.{key}=0", f"DETECTION.{key} must be at least 1")
        for key in (
            "MAX_SIZE",
            "TEST_SHORT_SIDE",
            "FPN_CHANNELS",
            "BOXES_PER_IMAGE",
            "BOX_FC_DIM",
            "MAX_DETECTIONS",
        )
    ),
    *(
        (f"DETECTION.{key}=-1", f"DETECTION.{key} must be at least 0")
        for key in ("MAX_BAD_ANNOTATIONS", "BOX_CONVS", "MASK_CONVS")
    ),
    ("DETECTION.CROP_RANGE=[600,384]", "DETECTION.CROP_RANGE must be empty or a range (low, high)"),
    ("DETECTION.CROP_RANGE=[]", "DETECTION.CROP_RANGE must be empty if and only if"),
    (
        f"{DETECTOR} DETECTION.ANCHOR_SIZES=[32,64]",
        "DETECTION.ANCHOR_SIZES must have one more entry than SWIN.DEPTHS",
    ),
    ("DETECTION.STAGE_WEIGHTS=[1]", "DETECTION.STAGE_WEIGHTS must have as many entries as"),
    (
        "DETECTION.IOU_THRESHOLDS=[0.5,0.6,1]",
        "DETECTION.IOU_THRESHOLDS must be above 0 and below 1 in every entry",
    ),
    ("DETECTION.STAGE_WEIGHTS=[1,1,-1]", "DETECTION.STAGE_WEIGHTS must be at least 0 in every"),
    ("DETECTION.SCORE_THRESH=2", "DETECTION.SCORE_THRESH must be from 0 to 1"),
    ("DETECTION.NMS_THRESH=-1", "DETECTION.NMS_THRESH must be from 0 to 1"),
    ("DETECTION.BOX_LOSS=iou", 'DETECTION.BOX_LOSS must be "giou" or "smooth_l1"'),
]
# Unusual configs that are valid.
VALID = [
    DETECTOR,
    "DETECTION.CROP_RANGE=[] DETECTION.CROP_SHORT_SIDES=[]",
    "AUG.ENABLE=true AUG.NUM_SAMPLE=2",
    "MODEL.LOSS_FUNC=soft_cross_entropy MIXUP.ALPHA=0 MIXUP.CUTMIX_ALPHA=0",
    "MIXUP.ENABLE=true MODEL.LOSS_FUNC=soft_cross_entropy MIXUP.ALPHA=0",
    "TRAIN.BATCH_SIZE=10 NUM_GPUS=4 TRAIN.ENABLE=false",
    "TEST.BATCH_SIZE=10 NUM_GPUS=4 TEST.ENABLE=false",
    "SWIN.WINDOW_SIZE=[1,2,2]",
    "STVIT.ENABLE=true STVIT.NUM_TOKENS=49 STVIT.KEY_WINDOWS=[7,10,14] STVIT.STAGE=4",
    "MODEL.ARCH=ptv MODEL.MODEL_NAME=mvit_base_16x4 DATA.TEST_CROP_SIZE=256 TEST.ENABLE=false",
    "MODEL.ARCH=ptv MODEL.MODEL_NAME=x3d_s MODEL.DROPCONNECT_RATE=0 DATA.NUM_FRAMES=13",
    "SOLVER.WARMUP_EPOCHS=30",
    "SOLVER.WARMUP_EPOCHS=0 SOLVER.MAX_EPOCH=1 SOLVER.COSINE_AFTER_WARMUP=true",
    "DATA.TRAIN_JITTER_SCALES_RELATIVE=[1,1] DATA.TRAIN_JITTER_ASPECT_RELATIVE=[1,1]",
    "DATA.TRAIN_JITTER_SCALES_RELATIVE=[] DATA.TRAIN_JITTER_ASPECT_RELATIVE=[]",
    "DATA.TEST_CROP_SIZE=300 TEST.NUM_SPATIAL_CROPS=3",
    "SOLVER.STEPS=[0,10,20] SOLVER.LRS=[1,0.1,0.01] SOLVER.LR_POLICY=steps_with_relative_lrs",
    "SOLVER.OPTIMIZING_METHOD=sgd SOLVER.MOMENTUM=0 SOLVER.NESTEROV=false",
    "NUM_SHARDS=2 SHARD_ID=1 DEVICE=cpu DIST_BACKEND=gloo",
]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "empty.yaml"
    path.write_text("", encoding="utf-8")
    return path


@pytest.mark.parametrize(("overrides", "message"), INVALID)
def test_invalid_config_is_rejected(empty: Path, overrides: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(empty, overrides.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", VALID)
def test_valid_config_is_accepted(empty: Path, overrides: str) -> None:
    load_config(empty, overrides.split())


def test_every_rule_is_tested() -> None:
    """Fails for a new rule until a config in INVALID breaks it."""
    untested = [
        f"{rule.keys[0]} {rule.text}"
        for rule in RULES
        if not any(
            message.startswith(f"{rule.keys[0]} {rule.text}"[: len(message)])
            for _, message in INVALID
        )
    ]
    assert not untested, "\n".join(untested)


def test_rules_use_existing_keys() -> None:
    known = flatten(default_config())
    named = {key for rule in RULES for key in (*rule.keys, *([rule.when] if rule.when else []))}
    assert named <= set(known)


def test_error_names_files_and_lines(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("TRAIN:\n  BATCH_SIZE: 9\n", encoding="utf-8")
    top = tmp_path / "top.yaml"
    top.write_text("# eight GPUs\n_BASE_: base.yaml\nNUM_GPUS: 8\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(top)
    assert str(caught.value) == (
        "TRAIN.BATCH_SIZE must be a multiple of NUM_GPUS, but it is 9 "
        f"({base}:2, _BASE_ of {top}) and NUM_GPUS is 8 ({top}:3)"
    )
