"""Memory of the list of a data set as large as Kinetics-400, measured in a new process."""

import subprocess
import sys

LINES = 240_000
LIMIT = 100 * 2**20

# Prints the bytes that reading the list adds to the main process, that are sent to a spawned
# worker, and that a forked worker has copied after it has read every entry.
PROGRAM = """
import gc, os, pickle, sys
import psutil
from stvit_video.data.labeled_paths import read_labeled_paths
from stvit_video.data.labeled_videos import LabeledVideos

process = psutil.Process()
before = process.memory_info().rss
paths = read_labeled_paths(sys.argv[1], separator=" ", num_classes=400)
videos = LabeledVideos(paths, prefix=os.path.dirname(sys.argv[1]), backend="pyav")
gc.collect()
print(process.memory_info().rss - before)
print(len(pickle.dumps(videos)), flush=True)
if not os.fork():
    for index in range(len(videos)):
        videos.metadata(index)
    print(psutil.Process().memory_full_info().uss, flush=True)
    os._exit(0)
os.wait()
"""


def test_the_list_of_240000_videos_takes_little_memory_in_each_worker(tmp_path):
    name = "train_256/abseiling_and_more/0123456789a_{:06d}_{:06d}.mp4"
    (tmp_path / name.format(0, 10)).parent.mkdir(parents=True)
    (tmp_path / name.format(0, 10)).touch()
    lines = "".join(f"{name.format(i, i + 10)} {i % 400}\n" for i in range(LINES))
    (tmp_path / "train.csv").write_text(lines)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "train.csv")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    main, sent, forked = map(int, output.split())
    assert main < LIMIT
    assert 50 * LINES < sent < LIMIT  # The paths alone take the lower bound.
    assert forked < LIMIT
