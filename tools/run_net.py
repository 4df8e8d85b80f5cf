"""Train and test models with configs, using PySlowFast's command line."""

import argparse
import sys
from collections.abc import Sequence
from itertools import takewhile

from _program import is_yaml, program
from fvcore.common.config import CfgNode

from stvit_video.config import load_config
from stvit_video.config.load import check_output_dirs

_EXAMPLES = """examples:
  python tools/run_net.py --cfg configs/demo/stvit_swin_motion.yaml
  python tools/run_net.py --cfg configs/k400/swin_t.yaml --opts DATA.PATH_TO_DATA_DIR /data/k400
  python tools/run_net.py --cfg configs/k400/swin_t.yaml TRAIN.ENABLE False NUM_GPUS 2 \\
      TEST.CHECKPOINT_FILE_PATH swin_tiny_k400.pth
  python tools/run_net.py --cfg a.yaml b.yaml             # first a, then b
  python tools/run_net.py --cfg a.yaml --num_shards 2 --shard_id 0 --init_method tcp://host:9999
"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line into ``cfg_files``, ``overrides`` and ``init_method``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cfg", nargs="+", required=True, metavar="FILE", help="YAML configs, run in this order"
    )
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of config keys"
    )
    parser.add_argument("--num_shards", type=int, help="number of machines (NUM_SHARDS)")
    parser.add_argument("--shard_id", type=int, help="index of this machine (SHARD_ID)")
    parser.add_argument(
        "--init_method", default="", help="rendezvous address of several machines, tcp://HOST:PORT"
    )
    parser.add_argument("bare", nargs="*", metavar="KEY VALUE", help="overrides, as after --opts")
    parsed = parser.parse_intermixed_args(arguments)
    # argparse takes bare overrides directly after the files for more files.
    more_files = list(takewhile(is_yaml, parsed.cfg[1:]))
    parsed.cfg_files = [parsed.cfg[0], *more_files]
    parsed.overrides = [*parsed.cfg[len(parsed.cfg_files) :], *parsed.opts, *parsed.bare]
    for key, value in (("NUM_SHARDS", parsed.num_shards), ("SHARD_ID", parsed.shard_id)):
        if value is not None:
            parsed.overrides += [key, str(value)]
    return parsed


def run(cfg: CfgNode, *, init_method: str) -> None:
    """Train and test one config, as far as it enables them."""
    # Imported here to keep --help and errors in arguments fast.
    from stvit_video.engine.preflight import preflight
    from stvit_video.engine.run import train_and_test, write_config
    from stvit_video.runtime.distributed import run_ranks
    from stvit_video.runtime.launch import resolve_device

    # Report missing data before a missing device.
    preflight(cfg)
    device = resolve_device(cfg.DEVICE, cfg.NUM_GPUS)
    write_config(cfg)
    if cfg.TRAIN.ENABLE or cfg.TEST.ENABLE:
        run_ranks(
            train_and_test,
            cfg,
            num_local_ranks=cfg.NUM_GPUS,
            num_shards=cfg.NUM_SHARDS,
            shard_id=cfg.SHARD_ID,
            init_method=init_method,
            device=device,
            backend=cfg.DIST_BACKEND,
        )


@program("run_net.py")
def main(arguments: Sequence[str]) -> None:
    """Run every config."""
    parsed = parse_arguments(arguments)
    # Load all configs before the first run, so a mistake in the last one is reported immediately.
    configs = [load_config(path, parsed.overrides) for path in parsed.cfg_files]
    check_output_dirs(configs)
    for cfg in configs:
        run(cfg, init_method=parsed.init_method)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
