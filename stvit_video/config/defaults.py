"""Default values of all config keys. The names follow PySlowFast where it has the same key."""

from fvcore.common.config import CfgNode


def default_config() -> CfgNode:
    """Return a new, unfrozen config with the default value of every key."""
    c = CfgNode()

    # Ranks per machine: its GPUs, or processes if DEVICE is "cpu".
    c.NUM_GPUS = 1
    # Machines in the run.
    c.NUM_SHARDS = 1
    # Index of this machine, from 0 to NUM_SHARDS - 1.
    c.SHARD_ID = 0
    # Device: "cuda", "cpu", or "auto" (CUDA if there is a GPU, else the CPU).
    c.DEVICE = "cuda"
    # Distributed backend: "nccl", "gloo", or "auto" (nccl on CUDA, gloo on the CPU).
    c.DIST_BACKEND = "auto"
    # Folder for logs, checkpoints, results and the merged config.
    c.OUTPUT_DIR = "output"
    # Random seed. All random numbers of a run derive from it.
    c.RNG_SEED = 0
    # Steps between two lines of the log.
    c.LOG_PERIOD = 10
    # If True, log the parameters and FLOPs of the model before training.
    c.LOG_MODEL_INFO = True

    # Training options.
    c.TRAIN = CfgNode()
    # Whether to train.
    c.TRAIN.ENABLE = True
    # Data set: one of the names registered in data/build.py.
    c.TRAIN.DATASET = "kinetics"
    # Batch size per machine. It is divided evenly among the NUM_GPUS processes.
    c.TRAIN.BATCH_SIZE = 64
    # Epochs between two validations.
    c.TRAIN.EVAL_PERIOD = 1
    # Epochs between two checkpoints.
    c.TRAIN.CHECKPOINT_PERIOD = 1
    # Also save a checkpoint every CHECKPOINT_STEPS steps within an epoch. 0: do not.
    c.TRAIN.CHECKPOINT_STEPS = 0
    # Number of latest epoch checkpoints to keep. 0: keep all.
    c.TRAIN.KEEP_LAST = 0
    # Number of best epoch checkpoints to keep, by top1_err (by box AP in detection).
    c.TRAIN.KEEP_BEST = 1
    # Resume training from the latest readable checkpoint in OUTPUT_DIR.
    c.TRAIN.AUTO_RESUME = True
    # File of initial weights, or of a run to resume. Its format is detected from its keys.
    c.TRAIN.CHECKPOINT_FILE_PATH = ""
    # If True, load only the weights of a checkpoint of this package and start at epoch 0.
    c.TRAIN.CHECKPOINT_EPOCH_RESET = False
    # If True, initialize from the EMA weights of the file. It has no effect if the whole training
    # state is restored from the file.
    c.TRAIN.CHECKPOINT_EMA = False
    # Substrings to remove from the names in a checkpoint before they are matched to the model's.
    c.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN = ()
    # Reject a weights file that covers less than this fraction of the model's parameters.
    c.TRAIN.CHECKPOINT_MIN_SHARE = 0.5
    # If True, use automatic mixed precision.
    c.TRAIN.MIXED_PRECISION = False
    # Data type of mixed precision: "bfloat16", or "float16" (with loss scaling).
    c.TRAIN.MIXED_PRECISION_DTYPE = "bfloat16"
    # Number of batches of BATCH_SIZE over which gradients are accumulated per optimizer step.
    c.TRAIN.ACCUMULATE_STEPS = 1
    # Stop if the loss is above this many times the median of the previous steps.
    # 0: stop only if it is not finite.
    c.TRAIN.KILL_LOSS_EXPLOSION_FACTOR = 0.0

    # Testing options.
    c.TEST = CfgNode()
    # Whether to test.
    c.TEST.ENABLE = True
    # Data set for testing.
    c.TEST.DATASET = "kinetics"
    # Clips per forward pass on each machine, divided evenly among its processes.
    # In detection, each process forwards one image at a time.
    c.TEST.BATCH_SIZE = 64
    # Path to the checkpoint to test. Empty: the last checkpoint in OUTPUT_DIR.
    # "best": the one with the lowest validation error.
    c.TEST.CHECKPOINT_FILE_PATH = ""
    # Clips per test video, spread evenly over its length.
    c.TEST.NUM_ENSEMBLE_VIEWS = 4
    # Crops of each clip, along the long side of the frame: 1 or 3.
    c.TEST.NUM_SPATIAL_CROPS = 3
    # Path of the predictions, relative to OUTPUT_DIR. Empty: results/predictions.csv with the
    # predictions of all videos, or results/predictions.json in COCO format in detection.
    c.TEST.SAVE_RESULTS_PATH = ""

    # Data options.
    c.DATA = CfgNode()
    # Directory with train.csv, val.csv and test.csv, which have a line "path label" per video.
    # For the data set "imagenet", directory with train/ and val/, which have a folder per class.
    c.DATA.PATH_TO_DATA_DIR = ""
    # Separator between path and label. The label follows the last separator in a line.
    c.DATA.PATH_LABEL_SEPARATOR = " "
    # Prefix of relative video paths. Empty: the directory of the CSV file.
    c.DATA.PATH_PREFIX = ""
    # Frames per clip.
    c.DATA.NUM_FRAMES = 32
    # Distance between two frames of a clip, in frames.
    c.DATA.SAMPLING_RATE = 2
    # Frame rate in which SAMPLING_RATE is measured. 0: the frame rate of each video.
    c.DATA.TARGET_FPS = 0.0
    # How clips are sampled from a video: "video_swin" or "pyslowfast".
    c.DATA.SAMPLING_PROTOCOL = "video_swin"
    # Decoding backend: "pyav" or "decord".
    c.DATA.DECODING_BACKEND = "pyav"
    # Time limit in seconds for decoding a video. A worker that exceeds it is killed, because its
    # decoder hangs. 0: no limit. A stalled disk looks the same, so a video is retried once before
    # it counts as bad. Twice the limit should be below the timeout of the other ranks.
    # With NUM_WORKERS 0 there is no limit, and a decoder can hang or crash the run.
    c.DATA.DECODE_TIMEOUT = 120.0
    # Maximum number of unreadable videos per split before the run stops. 0: allow none. Training
    # replaces them, evaluation skips them, and OUTPUT_DIR/quarantine.csv lists them.
    c.DATA.MAX_BAD_VIDEOS = 20
    # Mean of each color channel, for pixels scaled to [0, 1].
    c.DATA.MEAN = (0.485, 0.456, 0.406)
    # Standard deviation of each color channel, for pixels scaled to [0, 1].
    c.DATA.STD = (0.229, 0.224, 0.225)
    # Relative scale range (fraction of the frame's area) of Inception-style random resized
    # cropping. Empty, with the aspect ratios empty too: use TRAIN_JITTER_SCALES.
    c.DATA.TRAIN_JITTER_SCALES_RELATIVE = (0.08, 1.0)
    # Aspect ratio range of Inception-style random resized cropping.
    c.DATA.TRAIN_JITTER_ASPECT_RELATIVE = (0.75, 1.3333)
    # Range of the random short side of training clips before a random crop.
    c.DATA.TRAIN_JITTER_SCALES = (256, 320)
    # Side of a training crop, in pixels.
    c.DATA.TRAIN_CROP_SIZE = 224
    # Short side of a validation frame, of which a center crop of TRAIN_CROP_SIZE is taken.
    c.DATA.VAL_SHORT_SIDE = 256
    # Side of a test crop, in pixels. Frames are resized to this short side for 3 crops, and to
    # VAL_SHORT_SIDE for 1.
    c.DATA.TEST_CROP_SIZE = 224
    # Interpolation for resizing frames, with antialiasing: "bilinear" or "bicubic".
    c.DATA.INTERPOLATION = "bilinear"
    # If True, flip training clips horizontally with probability 0.5.
    c.DATA.RANDOM_FLIP = True
    # Method to combine the scores of a video's views: "sum" (the mean) or "max".
    c.DATA.ENSEMBLE_METHOD = "sum"

    # Data augmentation options.
    c.AUG = CfgNode()
    # If True, apply the augmentations below to training clips, in addition to crop and flip.
    c.AUG.ENABLE = False
    # Number of repeated augmentations: clips cropped and augmented from each decoded clip.
    # A step then processes NUM_SAMPLE times TRAIN.BATCH_SIZE clips.
    c.AUG.NUM_SAMPLE = 1
    # RandAugment or AutoAugment policy, or empty for neither. "rand-m7-n4-mstd0.5-inc1" is
    # RandAugment with magnitude m (0 to 10), n operations, the standard deviation of the magnitude,
    # and inc1 if a higher magnitude is always stronger. "original-mstd0.5" and "originalr" are
    # AutoAugment.
    c.AUG.AA_TYPE = "rand-m9-mstd0.5-inc1"
    # Interpolation of rotations, shears and translations: "bilinear", or "bicubic" (slower).
    c.AUG.INTERPOLATION = "bilinear"
    # Color jitter: brightness, contrast and saturation change by factors in [1 - value, 1 + value].
    # As in PySlowFast and timm, it is used only if AA_TYPE is empty.
    c.AUG.COLOR_JITTER = 0.4
    # Probability of random erasing.
    c.AUG.RE_PROB = 0.25
    # Random erasing mode: "pixel" (noise), "rand" (a random color) or "const" (the mean color).
    c.AUG.RE_MODE = "pixel"
    # Maximum number of rectangles to erase. The number is drawn from 1 to RE_COUNT.
    c.AUG.RE_COUNT = 1

    # Mixup options.
    c.MIXUP = CfgNode()
    # If True, mix the clips of a batch and their labels with mixup or CutMix.
    c.MIXUP.ENABLE = False
    # Mixup alpha: the parameter of the beta distribution. 0: no mixup.
    c.MIXUP.ALPHA = 0.8
    # CutMix alpha: the parameter of the beta distribution. 0: no CutMix.
    c.MIXUP.CUTMIX_ALPHA = 1.0
    # Probability of applying mixup or CutMix to a batch.
    c.MIXUP.PROB = 1.0
    # Probability of CutMix instead of mixup if both are enabled.
    c.MIXUP.SWITCH_PROB = 0.5
    # Label smoothing. It is used with MODEL.LOSS_FUNC "soft_cross_entropy", even without mixing.
    c.MIXUP.LABEL_SMOOTH_VALUE = 0.1

    # Data loader options.
    c.DATA_LOADER = CfgNode()
    # Worker processes of each rank's data loader. 0: the rank loads its own data.
    c.DATA_LOADER.NUM_WORKERS = 8
    # Copy batches to pinned memory on CUDA.
    c.DATA_LOADER.PIN_MEMORY = True

    # Model options.
    c.MODEL = CfgNode()
    # Model architecture, registered in models/build.py: "swin", "deit", "ptv" (PyTorchVideo) or
    # "cascade_mask_rcnn".
    c.MODEL.ARCH = "swin"
    # Name of the PyTorchVideo model if ARCH is "ptv", such as "slowfast_r50".
    c.MODEL.MODEL_NAME = ""
    # Classes, without the background of a detector.
    c.MODEL.NUM_CLASSES = 400
    # Loss function: "cross_entropy", or "soft_cross_entropy" for the mixed and smoothed labels of
    # the MIXUP options. Validation uses the original labels with both.
    c.MODEL.LOSS_FUNC = "cross_entropy"
    # Dropout rate before the classifier.
    c.MODEL.DROPOUT_RATE = 0.5
    # Stochastic depth rate. It increases linearly from the first block to this value at the last.
    c.MODEL.DROPCONNECT_RATE = 0.1
    # Standard deviation of the classifier's initial weights.
    c.MODEL.FC_INIT_STD = 0.01
    # Activation of the head that turns logits into test scores: "softmax", "sigmoid" or "none".
    c.MODEL.HEAD_ACT = "softmax"
    # If True, use activation checkpointing: recompute the blocks in the backward pass to save
    # memory.
    c.MODEL.ACT_CHECKPOINT = False
    # Data type of the parameters and their updates: "float32" or "bfloat16". bfloat16 has 8
    # significant bits, so updates below about 1/256 of a weight are lost in rounding.
    c.MODEL.PARAM_DTYPE = "float32"
    # If True, compile the model with torch.compile.
    c.MODEL.COMPILE = False
    # Backend of torch.compile: "inductor", "aot_eager" or "eager".
    c.MODEL.COMPILE_BACKEND = "inductor"

    # Swin options.
    c.SWIN = CfgNode()
    # Patch embedding: "patch" (linear), or "conv" (two convolutions of stride 2 per frame).
    c.SWIN.STEM = "patch"
    # Patch size in frames, rows and columns.
    c.SWIN.PATCH_SIZE = (2, 4, 4)
    # Attention window size in frames, rows and columns.
    c.SWIN.WINDOW_SIZE = (8, 7, 7)
    # If True, shrink windows to grids smaller than a window, as in the paper. If False, pad the
    # grid and shift windows even if one covers it, as in the released Swin detectors.
    c.SWIN.CUT_WINDOWS = True
    # Number of channels in the first stage. It doubles at each later stage.
    c.SWIN.EMBED_DIM = 96
    # Number of blocks in each stage.
    c.SWIN.DEPTHS = (2, 2, 6, 2)
    # Number of attention heads in each stage.
    c.SWIN.NUM_HEADS = (3, 6, 12, 24)
    # Ratio of the MLP hidden dimension to the embedding dimension.
    c.SWIN.MLP_RATIO = 4.0

    # DeiT options.
    c.DEIT = CfgNode()
    # Patch size in rows and columns.
    c.DEIT.PATCH_SIZE = (16, 16)
    # Embedding dimension.
    c.DEIT.EMBED_DIM = 384
    # Number of blocks.
    c.DEIT.DEPTH = 12
    # Number of attention heads.
    c.DEIT.NUM_HEADS = 6
    # Ratio of the MLP hidden dimension to the embedding dimension.
    c.DEIT.MLP_RATIO = 4.0
    # If True, classify a class token, as in the paper, else the mean of all tokens, as with
    # semantic tokens.
    c.DEIT.CLASS_TOKEN = True

    # STViT (semantic token) options.
    c.STVIT = CfgNode()
    # If True, replace image tokens with semantic tokens in the middle of a stage.
    c.STVIT.ENABLE = False
    # Stage that LAYOUT describes, counted from 1. Later stages use semantic tokens, or image
    # tokens if LAYOUT recovers them. DeiT has one stage.
    c.STVIT.STAGE = 3
    # Layers of that stage: base (image tokens), stgm (semantic token generation), semantic, and
    # recovery (of image tokens). STViT-R uses "3 x (base 1, stgm 2, semantic 2, recovery 1)".
    c.STVIT.LAYOUT = "base 2, stgm 2, semantic 2"
    # Number of semantic tokens per spatial window per frame (per frame in DeiT). Must be a square.
    c.STVIT.NUM_TOKENS = 9
    # Initial cluster centers (Table 7): "spatial" (pooled), "global" (learned), "spatial+global"
    # (pooled; the learned ones are added to the queries of the second STGM layer), or
    # "spatial+position" (the learned ones are added to its keys too).
    c.STVIT.INITIALIZATION = "spatial+global"
    # Pooling of the initial cluster centers: "intra_inter", "average" or "max".
    c.STVIT.POOLING = "intra_inter"
    # Side of the key window of each STGM layer, in image tokens. 0: the whole frame.
    c.STVIT.KEY_WINDOWS = (10, 14)
    # Side of the window of semantic tokens from which recovery computes the image tokens of a
    # window. It is centered and cut at the border. 0: the whole frame.
    c.STVIT.RECOVERY_WINDOW = 0
    # Key windows at the border of the frame: "move" (move them inward, as in classification) or
    # "cut" (center and cut them, as in detection). For detector weights that were released with
    # padding: "released" (mask the padding in the corner only) or "released_unmasked" (do not mask
    # it).
    c.STVIT.BORDER = "move"
    # STGM layers that have semantic tokens as keys in addition to image tokens: "all" (Swin, from
    # the FLOPs in the paper), "later" (all but the first: equations 1 and 2) or "none".
    c.STVIT.SEMANTIC_KEYS = "all"
    # Side of the windows of cross-window connections (section 3.2), in windows of semantic tokens.
    # 0: the whole frame, which is the same as 4 at 224 pixels.
    c.STVIT.CROSS_WINDOW = 0
    # Number of frames over which semantic tokens attend. 1: within each frame, as counted in the
    # paper.
    c.STVIT.TEMPORAL_WINDOW = 1
    # Initial value of layer scale in stgm, semantic and recovery layers. 0: no layer scale.
    c.STVIT.LAYER_SCALE_INIT = 0.0
    # If True, the first STGM layer adds the initial centers to its output, else its output
    # replaces them, as in the released STViT-R.
    c.STVIT.SHORTCUT = True
    # Number of windows along each axis that have their own learned global centers. Beyond it the
    # centers repeat. 0: all windows of a frame of DATA.TRAIN_CROP_SIZE, as in the paper.
    c.STVIT.GLOBAL_WINDOWS = 0
    # If True, use global centers as in weights released with USE_GLOBAL: only in the first STGM,
    # and also added to the residual of its second layer.
    c.STVIT.RELEASED_GLOBAL = False
    # If True, the later STGMs use the semantic tokens of the first one as their initial cluster
    # centers instead of pooling (Table 9, "reusing").
    c.STVIT.REUSE_TOKENS = False

    # Detection options, for MODEL.ARCH "cascade_mask_rcnn". The SWIN and STVIT options describe
    # its backbone.
    c.DETECTION = CfgNode()
    # Names of the training, validation and test splits. DATA.PATH_TO_DATA_DIR has the layout of
    # COCO: annotations/instances_NAME.json and NAME/*.jpg.
    c.DETECTION.SPLITS = ("train2017", "val2017", "val2017")
    # Directory to cache parsed annotation files. Runs that share it parse each file once.
    # Empty: OUTPUT_DIR/cache.
    c.DETECTION.CACHE_DIR = ""
    # Short sides to sample from in training.
    c.DETECTION.TRAIN_SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    # Maximum long side.
    c.DETECTION.MAX_SIZE = 1333
    # Short sides to which half of the training images are resized before a random crop.
    # Empty, with CROP_RANGE empty too: no crop.
    c.DETECTION.CROP_SHORT_SIDES = (400, 500, 600)
    # Range of the sides of the random crop.
    c.DETECTION.CROP_RANGE = (384, 600)
    # Short side for validation and testing.
    c.DETECTION.TEST_SHORT_SIDE = 800
    # Maximum number of degenerate annotations in all splits before the run stops. They are skipped
    # and listed in OUTPUT_DIR/annotations_left_out.csv.
    c.DETECTION.MAX_BAD_ANNOTATIONS = 1000
    # Number of channels of the feature pyramid.
    c.DETECTION.FPN_CHANNELS = 256
    # Anchor size for each feature map of the pyramid, which has one more map than the backbone has
    # stages.
    c.DETECTION.ANCHOR_SIZES = (32, 64, 128, 256, 512)
    # Number of proposals per image in training and in evaluation.
    c.DETECTION.NUM_PROPOSALS = (2000, 1000)
    # Number of boxes per image on which each cascade stage is trained.
    c.DETECTION.BOXES_PER_IMAGE = 512
    # IoU threshold for positive boxes, for each cascade stage.
    c.DETECTION.IOU_THRESHOLDS = (0.5, 0.6, 0.7)
    # Loss weight of each cascade stage.
    c.DETECTION.STAGE_WEIGHTS = (1.0, 0.5, 0.25)
    # Box regression loss: "giou" (of the decoded boxes, with a weight of 10) or "smooth_l1".
    c.DETECTION.BOX_LOSS = "giou"
    # Number of convolutions in each box head.
    c.DETECTION.BOX_CONVS = 4
    # Number of channels of the linear layer in each box head.
    c.DETECTION.BOX_FC_DIM = 1024
    # Number of convolutions in each mask head.
    c.DETECTION.MASK_CONVS = 4
    # Minimum score of a detection.
    c.DETECTION.SCORE_THRESH = 0.05
    # IoU threshold of non-maximum suppression, per class.
    c.DETECTION.NMS_THRESH = 0.5
    # Maximum number of detections per image.
    c.DETECTION.MAX_DETECTIONS = 100

    # Optimizer options.
    c.SOLVER = CfgNode()
    # Base learning rate, after warmup, for the batch of one machine.
    c.SOLVER.BASE_LR = 1e-3
    # If True, scale the learning rates by NUM_SHARDS.
    c.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False
    # Learning rate schedule: "cosine" or "steps_with_relative_lrs".
    c.SOLVER.LR_POLICY = "cosine"
    # Final learning rate of the cosine policy.
    c.SOLVER.COSINE_END_LR = 0.0
    # If True, start the cosine decay at the end of warmup. It then takes MAX_EPOCH - WARMUP_EPOCHS.
    c.SOLVER.COSINE_AFTER_WARMUP = False
    # Start epochs of the steps of the "steps_with_relative_lrs" policy.
    c.SOLVER.STEPS = (0,)
    # Learning rate of each step, relative to BASE_LR.
    c.SOLVER.LRS = (1.0,)
    # Epochs to train.
    c.SOLVER.MAX_EPOCH = 30
    # Number of epochs of linear warmup, which may be a fraction.
    c.SOLVER.WARMUP_EPOCHS = 2.5
    # Learning rate at step 0 of the warmup.
    c.SOLVER.WARMUP_START_LR = 0.0
    # Optimizer: "adamw" or "sgd".
    c.SOLVER.OPTIMIZING_METHOD = "adamw"
    # Betas of AdamW.
    c.SOLVER.BETAS = (0.9, 0.999)
    # Momentum of SGD.
    c.SOLVER.MOMENTUM = 0.9
    # Whether SGD's momentum is Nesterov's.
    c.SOLVER.NESTEROV = True
    # Weight decay: decoupled in AdamW, an L2 term in SGD.
    c.SOLVER.WEIGHT_DECAY = 0.02
    # If True, do not apply weight decay to 1D parameters, such as norms and biases. It is never
    # applied to position bias tables, nor to what the model excludes, such as position embeddings
    # and class tokens.
    c.SOLVER.ZERO_WD_1D_PARAM = True
    # Learning rate factor of all parameters except those of the head.
    c.SOLVER.BACKBONE_LR_FACTOR = 1.0
    # If True, do not apply BACKBONE_LR_FACTOR to position bias tables.
    c.SOLVER.FULL_LR_BIAS_TABLES = False
    # Limit of each entry of the gradient. 0: none.
    c.SOLVER.CLIP_GRAD_VAL = 0.0
    # Limit of the gradient's L2 norm, over all parameters. 0: none.
    c.SOLVER.CLIP_GRAD_L2NORM = 0.0
    # Layer-wise learning rate decay, from each layer to the previous one. 1: no decay.
    c.SOLVER.LAYER_DECAY = 1.0

    # Options for the exponential moving average (EMA) of the weights.
    c.EMA = CfgNode()
    # If True, keep an EMA of the weights in float32.
    c.EMA.ENABLE = False
    # Decay of the EMA at each optimizer step.
    c.EMA.DECAY = 0.9999
    # If True, validate and test the EMA weights.
    c.EMA.EVAL = True

    # TensorBoard options.
    c.TENSORBOARD = CfgNode()
    # Whether to write TensorBoard logs.
    c.TENSORBOARD.ENABLE = True
    # Directory of the TensorBoard logs, in OUTPUT_DIR.
    c.TENSORBOARD.LOG_DIR = "runs"
    # Path to a JSON file {class name: label}. Empty: classes.json in DATA.PATH_TO_DATA_DIR if it
    # exists, or the names of the class folders for images.
    c.TENSORBOARD.CLASS_NAMES_PATH = ""

    return c
