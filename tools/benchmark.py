"""Compare the speed and memory of models in one process.

    python tools/benchmark.py configs/k400/stvit_swin_t.yaml configs/k400/swin_t.yaml \
        torchvision:swin3d_t

Models take turns, and each pair is compared round by round. On a GPU with --amp bfloat16.
"""

import argparse
import sys

import torch
from _program import program

from stvit_video.engine.benchmark import build_contender, compare, report


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="config files, or torchvision:NAME")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default 7)")
    parser.add_argument("--batch", type=int, default=1, help="clips at once (default 1)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        default=(32, 224, 224),
        metavar=("FRAMES", "HEIGHT", "WIDTH"),
        help="of a clip (default 32 224 224)",
    )
    parser.add_argument("--train", action="store_true", help="time forward and backward")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", choices=("bfloat16", "float16"), help="automatic mixed precision")
    return parser.parse_args()


@program("benchmark.py")
def main() -> None:
    """Build the models, time them, print the table."""
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    video = torch.randn(arguments.batch, 3, *arguments.size, device=device)
    models = {name: build_contender(name).to(device) for name in arguments.models}
    timings = compare(
        models,
        video,
        rounds=arguments.rounds,
        amp=getattr(torch, arguments.amp) if arguments.amp else None,
        train=arguments.train,
    )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else "CUDA"
    print(f"{where}, {threads}, {arguments.amp or 'float32'}, torch {torch.__version__}")
    print(report(timings, batch=arguments.batch))


if __name__ == "__main__":
    sys.exit(main())
