"""Opened videos leave nothing behind."""

import psutil
import pytest
from made_videos import CUT

from stvit_video.data.decode import open_video

# By an index and by counting, with B-frames, of several codecs.
NAMES = ("b_frames.mp4", "open_groups.mkv", "hevc.mp4", "mpeg4_b_frames.avi", "vp8.webm", CUT)
OPENINGS = 240
# A leak of 25 kB an opening would exceed it; a decoder of these small frames alone takes 500 kB.
MOST_GROWTH = 6 * 2**20


def test_memory_stays_flat_over_many_opened_videos(video_kinds):
    paths = [video_kinds(name) for name in NAMES]

    def read(times: int) -> None:
        for opening in range(times):
            with open_video(paths[opening % len(paths)]) as reader:
                reader.get_frames([3, 20, 11])

    process = psutil.Process()
    read(100)
    before = process.memory_full_info().uss
    files = process.num_fds()
    read(OPENINGS)
    assert process.memory_full_info().uss - before < MOST_GROWTH
    assert process.num_fds() == files


@pytest.mark.parametrize("name", ["b_frames.mp4", "mpeg4_b_frames.avi"])
def test_a_closed_reader_frees_its_memory_while_it_is_still_referred_to(video_kinds, name):
    process = psutil.Process()
    readers = []
    for opening in range(80):
        if opening == 20:
            before = process.memory_full_info().uss
        reader = open_video(video_kinds(name))
        reader.get_frames([3])
        reader.close()
        readers.append(reader)
    assert process.memory_full_info().uss - before < MOST_GROWTH
