"""Plot the attention of semantic tokens over the frames of a video (paper, Figure 3)."""

from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from stvit_video.data.build import build_dataset
from stvit_video.data.kinetics import MultiViewVideos
from stvit_video.engine.precision import build_normalize
from stvit_video.engine.results import build_class_names
from stvit_video.engine.resume import checkpoint_to_test, load_test_weights
from stvit_video.errors import UserError
from stvit_video.figures.attention import draw_attention
from stvit_video.models import build_model
from stvit_video.models.semantic.attention_maps import record_attention_maps


@torch.no_grad()
def plot_attention(cfg: CfgNode, *, video_index: int, output: Path) -> str:
    """Plot the last generation layer's attention over frames of a test video, as a PNG file.

    Rows are frames, columns are the semantic tokens whose attention is most focused.

    Args:
        cfg: config of a model with semantic tokens. The weights are those of
            TEST.CHECKPOINT_FILE_PATH, or of the newest checkpoint in OUTPUT_DIR.
        video_index: index in the test split.
        output: the PNG file.

    Returns:
        a line with the video, its label and the prediction.

    Raises:
        UserError: the model has no semantic tokens, there are no weights, or the index is out of
            range.
    """
    if not cfg.STVIT.ENABLE:
        raise UserError(
            "Attention can be plotted only for a model with semantic tokens: set STVIT.ENABLE True."
        )
    if cfg.STVIT.BORDER.startswith("released"):
        raise UserError(
            f'With STVIT.BORDER "{cfg.STVIT.BORDER}" semantic tokens attend to padding outside of '
            'the frames, which cannot be plotted: set it to "cut".'
        )
    dataset = build_dataset(cfg, "test")
    assert isinstance(dataset, MultiViewVideos)
    if not 0 <= video_index < len(dataset):
        raise UserError(
            f"The index of a test video must be from 0 to {len(dataset) - 1}, but it is "
            f"{video_index}."
        )
    model = build_model(cfg).eval()
    load_test_weights(cfg, model, checkpoint_to_test(cfg))
    model.float()  # the plot uses NumPy, which has no bfloat16
    item = dataset[video_index]
    view = item["video"][cfg.TEST.NUM_SPATIAL_CROPS // 2][None]  # first clip, center crop
    with record_attention_maps(model) as maps:
        logits = model(build_normalize(cfg, torch.device("cpu"))(view))
    names = build_class_names(cfg)
    label, prediction = names[item["label"]], names[int(logits.argmax())]
    title = f"{item['video_name']}: {label}, predicted as {prediction}"
    draw_attention(output, view[0].permute(1, 2, 3, 0).numpy(), maps[-1], title=title)
    return title
