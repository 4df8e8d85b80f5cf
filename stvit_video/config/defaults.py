"""Every config key, once, with its meaning; PySlowFast's names wherever PySlowFast has one."""

from fvcore.common.config import CfgNode


def default_config() -> CfgNode:
    """Return a new, unfrozen config that holds every key with its default value."""
    c = CfgNode()

    # Processes on this machine, one a GPU (or, with DEVICE cpu, one a CPU rank).
    c.NUM_GPUS = 1
    # Machines in the job, and the index of this one.
    c.NUM_SHARDS = 1
    c.SHARD_ID = 0
    # "cuda", "cpu", or "auto": CUDA where there is a GPU, the CPU elsewhere.
    c.DEVICE = "cuda"
    # torch.distributed backend; "auto" is nccl on CUDA and gloo on the CPU.
    c.DIST_BACKEND = "auto"
    # Logs, checkpoints, results and the merged config go here.
    c.OUTPUT_DIR = "output"
    # Every random draw of a run derives from this seed.
    c.RNG_SEED = 0
    # Iterations between two lines of the training log.
    c.LOG_PERIOD = 10
    # Log parameters and FLOPs of the model before training.
    c.LOG_MODEL_INFO = True

    c.TRAIN = CfgNode()
    c.TRAIN.ENABLE = True
    # Name of a data set in data/build.py.
    c.TRAIN.DATASET = "kinetics"
    # Clips a step on this machine, divided evenly among its NUM_GPUS processes.
    c.TRAIN.BATCH_SIZE = 64
    # Epochs between two validations, and between two checkpoints.
    c.TRAIN.EVAL_PERIOD = 1
    c.TRAIN.CHECKPOINT_PERIOD = 1
    # Steps between two checkpoints inside an epoch; 0: none there.
    c.TRAIN.CHECKPOINT_STEPS = 0
    # Finished epochs whose checkpoints stay: the newest (0: all), and those of lowest top1_err
    # (in detection, of highest box AP).
    c.TRAIN.KEEP_LAST = 0
    c.TRAIN.KEEP_BEST = 1
    # Go on from the newest readable checkpoint in OUTPUT_DIR.
    c.TRAIN.AUTO_RESUME = True
    # Weights to start from; the format is detected by the file's keys.
    c.TRAIN.CHECKPOINT_FILE_PATH = ""
    # With a checkpoint of ours: take the weights alone and start at epoch 0.
    c.TRAIN.CHECKPOINT_EPOCH_RESET = False
    # With a file that gives weights alone: take the averaged ones that it holds.
    c.TRAIN.CHECKPOINT_EMA = False
    # Parts of names to delete from the file's keys before they are matched.
    c.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN = ()
    # Refuse a weights file that fills less than this share of the model's parameters.
    c.TRAIN.CHECKPOINT_MIN_SHARE = 0.5
    # Automatic mixed precision, and its type: "bfloat16" or "float16" (with loss scaling).
    c.TRAIN.MIXED_PRECISION = False
    c.TRAIN.MIXED_PRECISION_DTYPE = "bfloat16"
    # Forward and backward passes a step of the optimizer; BATCH_SIZE counts one pass.
    c.TRAIN.ACCUMULATE_STEPS = 1
    # Stop at a loss above this many times the median of the steps before it; 0: only at one that
    # is not finite.
    c.TRAIN.KILL_LOSS_EXPLOSION_FACTOR = 0.0

    c.TEST = CfgNode()
    c.TEST.ENABLE = True
    c.TEST.DATASET = "kinetics"
    # Clips forwarded at once on this machine, divided evenly among its processes. (In detection
    # each forwards one image at a time.)
    c.TEST.BATCH_SIZE = 64
    # Weights to test; empty: the last checkpoint of this OUTPUT_DIR; "best": the one of the
    # lowest validation error.
    c.TEST.CHECKPOINT_FILE_PATH = ""
    # Clips along time and crops along the longer side of the frame (1 or 3) a video.
    c.TEST.NUM_ENSEMBLE_VIEWS = 4
    c.TEST.NUM_SPATIAL_CROPS = 3
    # Predictions of every video as a CSV file, a path from OUTPUT_DIR; empty:
    # results/predictions.csv. (In detection a JSON file in COCO's format; empty:
    # results/predictions.json.)
    c.TEST.SAVE_RESULTS_PATH = ""

    c.DATA = CfgNode()
    # Folder of train.csv, val.csv and test.csv, a line "path label" each; for the data set
    # "imagenet" of train/ and val/, with a folder of images for each class.
    c.DATA.PATH_TO_DATA_DIR = ""
    # The label is what follows the last separator of a line.
    c.DATA.PATH_LABEL_SEPARATOR = " "
    # Put in front of relative paths; empty: the folder of the CSV file.
    c.DATA.PATH_PREFIX = ""
    # Frames of a clip, and the distance between two of them in frames.
    c.DATA.NUM_FRAMES = 32
    c.DATA.SAMPLING_RATE = 2
    # Count SAMPLING_RATE in frames of this rate; 0: in the video's own frames.
    c.DATA.TARGET_FPS = 0.0
    # How clips are placed in a video: "video_swin" or "pyslowfast".
    c.DATA.SAMPLING_PROTOCOL = "video_swin"
    # Decoder: "pyav" or "decord".
    c.DATA.DECODING_BACKEND = "pyav"
    # Seconds a worker may take for one video before it is ended, as its decoder hangs; 0: no limit.
    # A disk that stands still looks alike, so the video is given up at the second time only; twice
    # this should be below the time for which other ranks wait. (Without workers there is none:
    # NUM_WORKERS 0 lets a decoder hang, or crash the run.)
    c.DATA.DECODE_TIMEOUT = 120.0
    # Videos of each split that may be unreadable before the run stops; 0: none. Training replaces
    # them, evaluation leaves them out, and OUTPUT_DIR/quarantine.csv lists them.
    c.DATA.MAX_BAD_VIDEOS = 20
    # Mean and standard deviation of each channel, of pixels in [0, 1].
    c.DATA.MEAN = (0.485, 0.456, 0.406)
    c.DATA.STD = (0.229, 0.224, 0.225)
    # Training crop: area (share of the frame) and aspect ratio of a random resized crop.
    # With both empty: the short side is drawn from TRAIN_JITTER_SCALES, then a random crop.
    c.DATA.TRAIN_JITTER_SCALES_RELATIVE = (0.08, 1.0)
    c.DATA.TRAIN_JITTER_ASPECT_RELATIVE = (0.75, 1.3333)
    c.DATA.TRAIN_JITTER_SCALES = (256, 320)
    c.DATA.TRAIN_CROP_SIZE = 224
    # Validation: the short side, of which the center of TRAIN_CROP_SIZE is taken.
    c.DATA.VAL_SHORT_SIDE = 256
    # Test: with 1 crop the center of VAL_SHORT_SIDE's frame, with 3 the short side is this.
    c.DATA.TEST_CROP_SIZE = 224
    # How frames are resized (with antialiasing): "bilinear" or "bicubic".
    c.DATA.INTERPOLATION = "bilinear"
    # Mirror half of the training clips.
    c.DATA.RANDOM_FLIP = True
    # Ensemble over the views of a video: "sum" (mean of the scores) or "max".
    c.DATA.ENSEMBLE_METHOD = "sum"

    c.AUG = CfgNode()
    # Augment training clips by all of the following, besides crop and flip.
    c.AUG.ENABLE = False
    # Clips that are made of each decoded one, differently cropped and augmented: a step then
    # takes TRAIN.BATCH_SIZE times as many clips (repeated augmentation).
    c.AUG.NUM_SAMPLE = 1
    # RandAugment, "rand-m7-n4-mstd0.5-inc1": level m (0 to 10), n operations, standard deviation
    # of the level, 1: a higher level is always stronger. AutoAugment, "original-mstd0.5" or
    # "originalr". Empty: neither.
    c.AUG.AA_TYPE = "rand-m9-mstd0.5-inc1"
    # Of the rotations, shears and translations in them: "bilinear", or "bicubic", which is slower.
    c.AUG.INTERPOLATION = "bilinear"
    # Brightness, contrast and saturation change by factors of 1 - this to 1 + this; as in
    # PySlowFast and timm only where AA_TYPE is empty.
    c.AUG.COLOR_JITTER = 0.4
    # Random erasing: its probability; what fills the 1 to RE_COUNT rectangles, "pixel" (noise),
    # "rand" (a random color) or "const" (the mean color).
    c.AUG.RE_PROB = 0.25
    c.AUG.RE_MODE = "pixel"
    c.AUG.RE_COUNT = 1

    c.MIXUP = CfgNode()
    # Mix the clips of a batch and their labels by mixup or CutMix.
    c.MIXUP.ENABLE = False
    # Parameters of the beta distributions of the shares of mixup and of CutMix; 0: not that one.
    c.MIXUP.ALPHA = 0.8
    c.MIXUP.CUTMIX_ALPHA = 1.0
    # Probability of mixing a batch, and of CutMix rather than mixup if it is mixed.
    c.MIXUP.PROB = 1.0
    c.MIXUP.SWITCH_PROB = 0.5
    # Share of the label that is spread over all classes, with or without mixing, where
    # MODEL.LOSS_FUNC is "soft_cross_entropy".
    c.MIXUP.LABEL_SMOOTH_VALUE = 0.1

    c.DATA_LOADER = CfgNode()
    # Worker processes of each rank.
    c.DATA_LOADER.NUM_WORKERS = 8
    c.DATA_LOADER.PIN_MEMORY = True

    c.MODEL = CfgNode()
    # Name of a builder in models/build.py: "swin", "deit", "ptv" or "cascade_mask_rcnn".
    c.MODEL.ARCH = "swin"
    # With ARCH "ptv": a model of PyTorchVideo by its name there, such as "slowfast_r50".
    c.MODEL.MODEL_NAME = ""
    c.MODEL.NUM_CLASSES = 400
    # "cross_entropy" or, with the MIXUP keys' smoothed and mixed labels, "soft_cross_entropy";
    # validation takes the labels as they are with both.
    c.MODEL.LOSS_FUNC = "cross_entropy"
    # Dropout before the classifier, and stochastic depth (rising linearly to this rate).
    c.MODEL.DROPOUT_RATE = 0.5
    c.MODEL.DROPCONNECT_RATE = 0.1
    # Standard deviation of the classifier's initial weights.
    c.MODEL.FC_INIT_STD = 0.01
    # What turns logits into test scores: "softmax", "sigmoid" or "none".
    c.MODEL.HEAD_ACT = "softmax"
    # Keep the inputs of blocks alone for the backward pass, which computes the rest again.
    c.MODEL.ACT_CHECKPOINT = False
    # Type of the parameters, and of their updates: "float32" or "bfloat16". The latter has 8
    # significant bits: an update below about 1/256 of its weight is lost in rounding.
    c.MODEL.PARAM_DTYPE = "float32"
    # torch.compile, with this backend: "inductor", "aot_eager" or "eager".
    c.MODEL.COMPILE = False
    c.MODEL.COMPILE_BACKEND = "inductor"

    c.SWIN = CfgNode()
    # "patch": a linear map of patches; "conv": two convolutions of stride 2, frame by frame.
    c.SWIN.STEM = "patch"
    # Frames, rows and columns of a patch and of an attention window.
    c.SWIN.PATCH_SIZE = (2, 4, 4)
    c.SWIN.WINDOW_SIZE = (8, 7, 7)
    # Cut windows to a grid that is smaller, as published; False pads the grid, and shifts windows
    # even where one covers it, as the released Swin for detection.
    c.SWIN.CUT_WINDOWS = True
    # Channels of the first stage (doubled at each later one); blocks and heads of each stage.
    c.SWIN.EMBED_DIM = 96
    c.SWIN.DEPTHS = (2, 2, 6, 2)
    c.SWIN.NUM_HEADS = (3, 6, 12, 24)
    c.SWIN.MLP_RATIO = 4.0

    c.DEIT = CfgNode()
    # Rows and columns of a patch.
    c.DEIT.PATCH_SIZE = (16, 16)
    c.DEIT.EMBED_DIM = 384
    c.DEIT.DEPTH = 12
    c.DEIT.NUM_HEADS = 6
    c.DEIT.MLP_RATIO = 4.0
    # Classify a class token, as published; else the mean of all tokens, as with semantic tokens.
    c.DEIT.CLASS_TOKEN = True

    c.STVIT = CfgNode()
    # Replace image tokens by semantic tokens in the middle of a stage.
    c.STVIT.ENABLE = False
    # The stage (1 is the first) that LAYOUT describes; all later stages are semantic, or dense if
    # LAYOUT recovers the image tokens. DeiT is one stage.
    c.STVIT.STAGE = 3
    # Layers of that stage: base (image tokens), stgm (token generation), semantic, and recovery
    # (of the image tokens), such as "3 x (base 1, stgm 2, semantic 2, recovery 1)" of STViT-R.
    c.STVIT.LAYOUT = "base 2, stgm 2, semantic 2"
    # Semantic tokens of each spatial window of each frame (DeiT: of the frame); a square number.
    c.STVIT.NUM_TOKENS = 9
    # What initial cluster centers are (Table 7): "spatial" (pooled), "global" (learned),
    # "spatial+global" (pooled, and learned ones are added to the queries of the second STGM layer)
    # or "spatial+position" (the learned ones are added to its keys, too).
    c.STVIT.INITIALIZATION = "spatial+global"
    # How centers are pooled: "intra_inter", "average" or "max".
    c.STVIT.POOLING = "intra_inter"
    # Side of the key window of each STGM layer, in image tokens; 0 for the whole frame.
    c.STVIT.KEY_WINDOWS = (10, 14)
    # Side of the window of semantic tokens that the recovery gives the image tokens of a window, in
    # semantic tokens, centered and cut off at the border; 0 for the whole frame.
    c.STVIT.RECOVERY_WINDOW = 0
    # Key windows at the border of the frame: "move" (moved inwards, as in classification) or "cut"
    # (centered and cut off, as in detection). For detectors' weights that were released with their
    # padding: "released" (it is masked in the corner alone) or "released_unmasked" (nowhere).
    c.STVIT.BORDER = "move"
    # Which STGM layers have semantic tokens as keys beside image tokens: "all" (Swin, by the
    # paper's counts), "later" (all but the first: equations 1 and 2) or "none".
    c.STVIT.SEMANTIC_KEYS = "all"
    # Side of the windows of cross-window connections (section 3.2) in windows of semantic tokens,
    # such as 4; 0 for the whole frame, which at 224 pixels is the same.
    c.STVIT.CROSS_WINDOW = 0
    # Frames over which semantic tokens attend; 1: inside each frame, as counted in the paper.
    c.STVIT.TEMPORAL_WINDOW = 1
    # Initial value of the layer scale of stgm, semantic and recovery layers; 0: no layer scale.
    c.STVIT.LAYER_SCALE_INIT = 0.0
    # The first STGM layer adds the initial centers to what they aggregate; False (the released
    # STViT-R) replaces them by it.
    c.STVIT.SHORTCUT = True
    # Windows along each axis for which learned global centers are laid out, after which they
    # repeat; 0: all of a frame of DATA.TRAIN_CROP_SIZE (the paper).
    c.STVIT.GLOBAL_WINDOWS = 0
    # Global centers as in files that were released with USE_GLOBAL: in the first STGM alone, and
    # added to the residual of its second layer, too.
    c.STVIT.RELEASED_GLOBAL = False
    # The semantic tokens that the first STGM generates are the initial cluster centers of the
    # later ones, which pool nothing (Table 9, "reusing").
    c.STVIT.REUSE_TOKENS = False

    # Of MODEL.ARCH "cascade_mask_rcnn", whose backbone the SWIN and STVIT keys describe;
    # MODEL.NUM_CLASSES does not count the background.
    c.DETECTION = CfgNode()
    # Names of the training, validation and test split in DATA.PATH_TO_DATA_DIR, which holds
    # annotations/instances_NAME.json and the images NAME/*.jpg, as COCO comes.
    c.DETECTION.SPLITS = ("train2017", "val2017", "val2017")
    # Where what was read of an annotation file is kept: runs that name one folder parse it once.
    # Empty: OUTPUT_DIR/cache.
    c.DETECTION.CACHE_DIR = ""
    # Training: the short side is drawn from these, and the long one is at most MAX_SIZE.
    c.DETECTION.TRAIN_SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    c.DETECTION.MAX_SIZE = 1333
    # Half of the images are first resized to one of these short sides and cut to a rectangle whose
    # sides are drawn from the range; both empty: none are.
    c.DETECTION.CROP_SHORT_SIDES = (400, 500, 600)
    c.DETECTION.CROP_RANGE = (384, 600)
    # Validation and test: the short side, with the same limit of the long one.
    c.DETECTION.TEST_SHORT_SIDE = 800
    # Annotations of all splits that may be degenerate before the run stops; they are left out, and
    # OUTPUT_DIR/annotations_left_out.csv lists them.
    c.DETECTION.MAX_BAD_ANNOTATIONS = 1000
    # Channels of the feature pyramid, and the sides of the anchors on each of its maps (one more
    # than the backbone has stages).
    c.DETECTION.FPN_CHANNELS = 256
    c.DETECTION.ANCHOR_SIZES = (32, 64, 128, 256, 512)
    # Proposals of an image in training and in evaluation.
    c.DETECTION.NUM_PROPOSALS = (2000, 1000)
    # Boxes of an image that each stage is trained on.
    c.DETECTION.BOXES_PER_IMAGE = 512
    # An entry for each stage: from which IoU on a box is an object's, and the weight of its losses.
    c.DETECTION.IOU_THRESHOLDS = (0.5, 0.6, 0.7)
    c.DETECTION.STAGE_WEIGHTS = (1.0, 0.5, 0.25)
    # Loss of the regression of boxes: "giou" (of the decoded boxes, times 10) or "smooth_l1".
    c.DETECTION.BOX_LOSS = "giou"
    # Convolutions of the box heads and channels of the linear layer after them; convolutions of
    # the mask heads.
    c.DETECTION.BOX_CONVS = 4
    c.DETECTION.BOX_FC_DIM = 1024
    c.DETECTION.MASK_CONVS = 4
    # Detections of an image: the lowest score, the IoU above which the better one of two of a
    # class suppresses the other, and how many there are at most.
    c.DETECTION.SCORE_THRESH = 0.05
    c.DETECTION.NMS_THRESH = 0.5
    c.DETECTION.MAX_DETECTIONS = 100

    c.SOLVER = CfgNode()
    # Learning rate for the whole batch of one machine, at the end of warm-up.
    c.SOLVER.BASE_LR = 1e-3
    # Multiply the learning rates by NUM_SHARDS.
    c.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False
    # "cosine" or "steps_with_relative_lrs".
    c.SOLVER.LR_POLICY = "cosine"
    c.SOLVER.COSINE_END_LR = 0.0
    # Begin the cosine where warm-up ends (its half period is then MAX_EPOCH - WARMUP_EPOCHS).
    c.SOLVER.COSINE_AFTER_WARMUP = False
    # With steps: the first epochs of the pieces, and their factors of BASE_LR.
    c.SOLVER.STEPS = (0,)
    c.SOLVER.LRS = (1.0,)
    c.SOLVER.MAX_EPOCH = 30
    # Linear warm-up, in epochs (a fraction is allowed).
    c.SOLVER.WARMUP_EPOCHS = 2.5
    c.SOLVER.WARMUP_START_LR = 0.0
    # "adamw" or "sgd".
    c.SOLVER.OPTIMIZING_METHOD = "adamw"
    c.SOLVER.BETAS = (0.9, 0.999)
    c.SOLVER.MOMENTUM = 0.9
    c.SOLVER.NESTEROV = True
    c.SOLVER.WEIGHT_DECAY = 0.02
    # No weight decay on norms, biases and all other vectors. (Position bias tables and what a model
    # names itself, such as positions and class tokens, never have any.)
    c.SOLVER.ZERO_WD_1D_PARAM = True
    # Factor of the learning rate of all that is not the head.
    c.SOLVER.BACKBONE_LR_FACTOR = 1.0
    # Spare the backbone's position bias tables that factor.
    c.SOLVER.FULL_LR_BIAS_TABLES = False
    # Clip the gradient: by value, or by its norm; 0: not.
    c.SOLVER.CLIP_GRAD_VAL = 0.0
    c.SOLVER.CLIP_GRAD_L2NORM = 0.0

    # Factor of the learning rate from each layer to the one before it; 1: the same for all.
    c.SOLVER.LAYER_DECAY = 1.0

    c.EMA = CfgNode()
    # Keep an exponential moving average of the weights, in float32.
    c.EMA.ENABLE = False
    # Share of the average that stays at each step of the optimizer.
    c.EMA.DECAY = 0.9999
    # Validate and test the averaged weights.
    c.EMA.EVAL = True

    c.TENSORBOARD = CfgNode()
    c.TENSORBOARD.ENABLE = True
    # Folder of the event files, in OUTPUT_DIR.
    c.TENSORBOARD.LOG_DIR = "runs"
    # JSON file {class name: label}; empty: classes.json in DATA.PATH_TO_DATA_DIR, if it is there,
    # or the names of the class folders of images.
    c.TENSORBOARD.CLASS_NAMES_PATH = ""

    return c
