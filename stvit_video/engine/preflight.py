"""What can be found wrong before any long work starts."""

from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.build import build_dataset
from stvit_video.engine.checkpoint import checkpoint_folder
from stvit_video.engine.class_names import build_class_names
from stvit_video.engine.evaluate import predictions_path
from stvit_video.engine.resumption import Resumption, check_resumption
from stvit_video.engine.start import load_initial_weights
from stvit_video.engine.tested_weights import BEST, checkpoint_to_test, load_tested_weights
from stvit_video.errors import UserError
from stvit_video.models import build_model


def preflight(cfg: CfgNode, *, is_in_use: bool = False) -> Resumption | None:
    """Read every file that a run will need, and build its model.

    So hours of training are not lost to a test.csv that is missing. Runs in the process that
    starts the ranks.

    Args:
        cfg: the config.
        is_in_use: another run trains in OUTPUT_DIR until this one starts.

    Returns:
        Where training goes on; None if it begins anew, or there is none.

    Raises:
        UserError: the first mistake that was found.
    """
    splits = ["train", "val"] * cfg.TRAIN.ENABLE + ["test"] * cfg.TEST.ENABLE
    for split in splits:
        build_dataset(cfg, split)
    model = build_model(cfg)
    resumes = None
    if cfg.TRAIN.ENABLE:
        resumes = check_resumption(cfg, model, is_in_use=is_in_use)
        if cfg.TRAIN.CHECKPOINT_FILE_PATH and resumes is None:
            load_initial_weights(cfg, model)
    if cfg.TEST.ENABLE:
        _check_test(cfg, model)
    return resumes


def write_stand_in(cfg: CfgNode, path: Path) -> None:
    """Write a checkpoint like those that the run of ``cfg`` will leave, with untrained weights.

    So a run that is to start from them can be tried before they exist.
    """
    state = build_model(cfg).state_dict()
    torch.save({"model_state": state, **({"ema_state": state} if cfg.EMA.ENABLE else {})}, path)


def _check_test(cfg: CfgNode, model: nn.Module) -> None:
    build_class_names(cfg)
    if predictions_path(cfg).is_dir():
        raise UserError(
            f"TEST.SAVE_RESULTS_PATH names a file, but {predictions_path(cfg)} is a folder; "
            "add a file name."
        )
    path = Path(cfg.TEST.CHECKPOINT_FILE_PATH)
    is_ours = cfg.TEST.CHECKPOINT_FILE_PATH in ("", BEST)
    own_checkpoints = checkpoint_folder(cfg.OUTPUT_DIR).resolve()
    if cfg.TRAIN.ENABLE and (is_ours or path.parent.resolve() == own_checkpoints):
        return  # training will write it
    load_tested_weights(cfg, model, checkpoint_to_test(cfg))
