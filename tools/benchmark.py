"""Compare the speed of models, or of the data loader with PyTorchVideo's, in one process.

Models are config files, torchvision:NAME or timm:NAME. They run alternately, and each pair is
compared in every round:

    python tools/benchmark.py configs/k400/stvit_swin_t.yaml configs/k400/swin_t.yaml \\
        torchvision:swin3d_t
    python tools/benchmark.py configs/k400/stvit_swin_t.yaml configs/k400/swin_t.yaml --keep-memory
    python tools/benchmark.py configs/k400/swin_t.yaml --amp bfloat16 --batch 8 --train
    python tools/benchmark.py configs/imagenet/stvit_deit_s.yaml timm:deit_small_patch16_224 \\
        --batch 8 --opts STVIT.NUM_TOKENS 36
    python tools/benchmark.py configs/imagenet/swin_t.yaml timm:swin_tiny_patch4_window7_224 \\
        --size 1 448 448

The loader of a config (default configs/k400/stvit_swin_t.yaml) reads your own videos or images
or, without --videos, generated videos with the size and length of Kinetics-400's:

    python tools/benchmark.py --loader
    python tools/benchmark.py --loader configs/k400/swin_t.yaml --videos /data/k400/val.csv \\
        --opts DATA_LOADER.NUM_WORKERS 16
    python tools/benchmark.py --loader --videos a.mp4 folder/ --clips 2000 --model-speed 80
    python tools/benchmark.py --loader configs/imagenet/deit_s.yaml --videos /data/imagenet/val
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from _program import device, positive_int, program

from stvit_video.benchmarks.loader_report import loader_report
from stvit_video.benchmarks.models import (
    compare,
    create_model,
    default_size,
    describe_input,
    format_timings,
)
from stvit_video.errors import UserError
from stvit_video.inference.media import Media, find_media
from stvit_video.runtime.distributed import disable_cudnn_attention
from stvit_video.runtime.process import keep_freed_memory
from stvit_video.synthetic.motion import write_kinetics_like_videos

_LOADER_CONFIG = Path(__file__).resolve().parents[1] / "configs/k400/stvit_swin_t.yaml"
_GENERATED_VIDEOS = 4


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="config files, torchvision:NAME, timm:NAME")
    parser.add_argument("--rounds", type=positive_int, default=7, help="timed rounds (default 7)")
    parser.add_argument(
        "--device", type=device, default="auto", help="cpu, cuda or cuda:N (%(default)s)"
    )
    parser.add_argument(
        "--opts", nargs="+", default=(), metavar="KEY VALUE", help="overrides of every config"
    )
    models = parser.add_argument_group("models")
    models.add_argument("--batch", type=positive_int, default=1, help="batch size (default 1)")
    models.add_argument(
        "--size",
        type=positive_int,
        nargs=3,
        metavar=("FRAMES", "HEIGHT", "WIDTH"),
        help="input size; 1 frame is an image (default: the test size of the first config, or its "
        "training size with --train; without a config 32 224 224 for torchvision, 1 224 224 for "
        "timm)",
    )
    models.add_argument("--train", action="store_true", help="time the forward and backward pass")
    models.add_argument(
        "--keep-memory",
        action="store_true",
        help="on the CPU, keep freed memory for new tensors, as run_net.py does",
    )
    models.add_argument("--amp", choices=("bfloat16", "float16"), help="automatic mixed precision")
    loader = parser.add_argument_group("loader")
    loader.add_argument(
        "--loader",
        nargs="?",
        const=_LOADER_CONFIG,
        metavar="CONFIG",
        help="measure the loader of a config (default configs/k400/stvit_swin_t.yaml)",
    )
    loader.add_argument(
        "--videos",
        nargs="+",
        metavar="PATH",
        help="videos, or images for a config that reads images; folders, or CSV files (path label)",
    )
    loader.add_argument(
        "--clips",
        type=positive_int,
        default=256,
        help="clips to load with the workers, and largest number of files (default 256)",
    )
    loader.add_argument(
        "--model-speed",
        type=float,
        metavar="CLIPS/S",
        help="training speed of the model (default: measured)",
    )
    arguments = parser.parse_args()
    unused = models if arguments.loader else loader
    given = [
        action.option_strings[0]
        for action in unused._group_actions
        if getattr(arguments, action.dest) != action.default
    ]
    if given:
        rule = "not valid with --loader" if arguments.loader else "only valid with --loader"
        parser.error(f"{', '.join(given)}: {rule}")
    return arguments


@program("benchmark.py")
def main() -> None:
    """Parse the command line, and benchmark models or the loader."""
    arguments = parse_arguments()
    if bool(arguments.loader) == bool(arguments.models):
        raise UserError("Give either models or --loader CONFIG; --help has examples.")
    if arguments.loader:
        measure_loader(arguments)
    else:
        measure_models(arguments)


def measure_models(arguments: argparse.Namespace) -> None:
    """Create the models, time them, and print a table."""
    disable_cudnn_attention()
    if arguments.keep_memory and not keep_freed_memory():
        raise UserError("--keep-memory needs the GNU C library: omit it.")
    size = tuple(arguments.size or ()) or default_size(
        arguments.models, overrides=arguments.opts, train=arguments.train
    )
    shape = size if size[0] > 1 else size[1:]  # image models of other libraries take images
    video = torch.randn(arguments.batch, 3, *shape, device=arguments.device)
    models = {
        name: create_model(name, overrides=arguments.opts, size=size).to(arguments.device)
        for name in arguments.models
    }
    timings = compare(
        models,
        video,
        rounds=arguments.rounds,
        amp=getattr(torch, arguments.amp) if arguments.amp else None,
        train=arguments.train,
    )
    on_gpu = arguments.device.type == "cuda"
    device_name = torch.cuda.get_device_name(arguments.device) if on_gpu else "CPU"
    threads = "CUDA" if on_gpu else f"{torch.get_num_threads()} threads"
    memory = ", freed memory kept" if arguments.keep_memory else ""
    print(
        f"{device_name}, {threads}{memory}, {arguments.amp or 'float32'}, torch {torch.__version__}"
    )
    print(f"{'training' if arguments.train else 'inference'} on {describe_input(video)}")
    print(format_timings(timings, batch=arguments.batch))


def measure_loader(arguments: argparse.Namespace) -> None:
    """Find or generate the media, and print each section of the report as it is measured."""
    with tempfile.TemporaryDirectory() as folder:
        if arguments.videos:
            media = find_media(arguments.videos)
        else:
            generated = write_kinetics_like_videos(Path(folder), count=_GENERATED_VIDEOS)
            media = Media(generated, are_images=False)
        sections = loader_report(
            arguments.loader,
            media,
            folder=Path(folder),
            overrides=arguments.opts,
            rounds=arguments.rounds,
            clips=arguments.clips,
            model_speed=arguments.model_speed,
            device=arguments.device,
        )
        for section in sections:
            print(section, flush=True)


if __name__ == "__main__":
    sys.exit(main())
