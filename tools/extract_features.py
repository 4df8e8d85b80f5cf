"""Extract features of videos or images to a NumPy .npz file.

python tools/extract_features.py --cfg configs/k400/stvit_r_swin_t.yaml --output features.npz \\
    --kind pyramid videos/ more.mp4 --opts TEST.CHECKPOINT_FILE_PATH weights.pth
python tools/extract_features.py --cfg configs/imagenet/stvit_r_swin_s.yaml --output features.npz \\
    images/ --opts TEST.CHECKPOINT_FILE_PATH stvit-r-swin-s.pth

with np.load("features.npz") as file:
    file["names"], file["features"]  # [N], and [N, views, C] or [N, views, t, h, w, C]

Folders are searched with their subfolders; a line of a CSV file is a path, or a path and a label.
Unreadable files are skipped with a warning and listed in file["left_out"]; the exit status is 2 if
none can be read. Features are computed in float32 even if the config trains in mixed precision;
"--opts TRAIN.MIXED_PRECISION True" is faster on a GPU, but less accurate.
"""

import argparse
import sys
from pathlib import Path

from _program import device, program

from stvit_video.config import load_config
from stvit_video.inference.features import FEATURES, extract_features
from stvit_video.runtime.distributed import disable_cudnn_attention


@program("extract_features.py")
def main() -> None:
    """Parse the command line, write the file, and print its arrays."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, help="videos or images, folders, CSV files")
    parser.add_argument("--cfg", required=True, metavar="FILE", help="YAML config of the model")
    parser.add_argument("--output", required=True, type=Path, help="output .npz file")
    parser.add_argument(
        "--kind",
        choices=FEATURES,
        default="pooled",
        help="pooled: input of the classifier's last layer, which is the mean of the final grid or "
        "the class token of a DeiT (default); grid: the final grid; pyramid: the grids of all "
        "stages",
    )
    parser.add_argument(
        "--device", type=device, default="auto", help="cpu, cuda or cuda:N (%(default)s)"
    )
    parser.add_argument(
        "--opts", nargs="+", default=(), metavar="KEY VALUE", help="overrides of config keys"
    )
    arguments = parser.parse_args()
    disable_cudnn_attention()
    print(
        extract_features(
            load_config(arguments.cfg, ["TRAIN.MIXED_PRECISION", "False", *arguments.opts]),
            arguments.paths,
            kind=arguments.kind,
            output=arguments.output,
            device=arguments.device,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
