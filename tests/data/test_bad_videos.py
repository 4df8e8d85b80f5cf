import pandas as pd
import pytest
from faulty import bad_video_log

from stvit_video.data.bad_videos import BadVideo, BadVideoLog, read_bad_videos
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.errors import UserError
from stvit_video.runtime.distributed import get_rank, run_ranks


def bad(index, *, error="it is broken", csv="some.csv", **options):
    return BadVideo(index, f"{index}.mp4", 0, csv, index + 1, error, **options)


def test_a_video_counts_once_with_its_first_error(tmp_path):
    log = bad_video_log(9, max_bad=2, file=tmp_path / "run" / "quarantine.csv")
    log.add([bad(5), bad(3, error='"so", to say')])
    log.add([bad(5, error="another error")])
    assert [(video.index, video.error) for video in log.bad] == [
        (3, '"so", to say'),
        (5, "it is broken"),
    ]
    table = pd.read_csv(tmp_path / "run" / "quarantine.csv")
    assert table["path"].tolist() == ["3.mp4", "5.mp4"]
    assert table["line"].tolist() == [4, 6]
    assert table["error"][0] == '"so", to say'
    with pytest.raises(UserError, match=r"3 of the 9 .* is 2: .*tools/check_data\.py"):
        log.add([bad(8)])
    assert len(pd.read_csv(tmp_path / "run" / "quarantine.csv")) == 3


def test_every_bad_video_is_logged_once(caplog):
    log = bad_video_log(9)
    for _ in range(3):
        log.add([bad(5), bad(6, read_by_fallback=True)])
    assert [record.message for record in caplog.records] == [
        "some.csv, line 6: cannot read the video 5.mp4: it is broken; it is left out",
        "some.csv, line 7: cannot read the video 6.mp4: it is broken; the fallback decoder read it",
    ]
    assert (len(log.bad), len(log.read_by_fallback)) == (1, 1)


def test_a_bad_video_that_later_crashes_a_worker_is_not_opened_again():
    log = bad_video_log(9, max_bad=1)
    log.add([bad(5)])
    assert not log.crashing
    log.add([bad(5, error="it crashes", crashes_worker=True)])
    assert log.crashing == {5: bad(5, crashes_worker=True)}


def test_listed_videos_survive_a_resume(tmp_path):
    file = tmp_path / "quarantine.csv"
    bad_video_log(9, file=file).add([bad(5, crashes_worker=True), bad(3)])
    resumed = bad_video_log(9, file=file)
    # The crashing video is not opened again; the other one is retried, and has not failed yet.
    assert [video.index for video in resumed.bad] == [5]
    assert list(resumed.crashing) == [5]
    resumed.add([bad(7)])
    assert [video.path for video in read_bad_videos(file)] == ["3.mp4", "5.mp4", "7.mp4"]
    with pytest.raises(UserError, match="3 of the 9 videos") as ended:
        bad_video_log(9, file=file, max_bad=2).add([bad(3), bad(7)])
    files = tmp_path / "quarantine*.csv"
    assert str(ended.value).endswith(
        "; those that crashed a worker (1) are retried only after their lines are removed from "
        f"{files}"
    )


def test_listed_videos_whose_csv_line_changed_are_ignored(tmp_path):
    file = tmp_path / "quarantine.csv"
    bad_video_log(9, file=file).add([bad(5, crashes_worker=True), bad(3, crashes_worker=True)])
    entries = [Entry(4, "3.mp4", 0), Entry(6, "new.mp4", 0)]
    changed = BadVideoLog(
        LabeledPaths("some.csv", entries), file=file, max_bad=9, handling="left out"
    )
    assert [(video.index, video.path) for video in changed.bad] == [(0, "3.mp4")]


def test_splits_share_the_list(tmp_path):
    file = tmp_path / "quarantine.csv"
    bad_video_log(9, file=file).add([bad(5)])
    paths = LabeledPaths("other.csv", [Entry(1, "0.mp4", 0)])
    other = BadVideoLog(paths, file=file, max_bad=9, handling="left out")
    other.add([bad(0, csv="other.csv")])
    assert [(video.csv, video.path) for video in read_bad_videos(file)] == [
        ("some.csv", "5.mp4"),
        ("other.csv", "0.mp4"),
    ]


def test_an_unrelated_file_of_this_name_is_not_overwritten(tmp_path):
    file = tmp_path / "quarantine.csv"
    file.write_text("animal,days\ndog,9\n")
    with pytest.raises(UserError, match="not a list of bad videos"):
        bad_video_log(9, file=file)


def add_videos_on_two_ranks(arguments):
    file, max_bad = arguments
    log = bad_video_log(9, file=file, max_bad=max_bad)
    log.add([bad(0), bad(get_rank() + 4, crashes_worker=True)])
    log.share()
    assert [video.index for video in log.bad] == [0, 4, 5]
    assert set(log.crashing) == {4, 5}


def test_ranks_exchange_bad_videos(tmp_path):
    file = tmp_path / "quarantine.csv"
    run_ranks(add_videos_on_two_ranks, (file, 3), num_local_ranks=2)
    assert [video.path for video in read_bad_videos(file)] == ["0.mp4", "4.mp4", "5.mp4"]


def test_the_limit_applies_to_all_ranks_together(tmp_path):
    with pytest.raises(UserError, match=r"3 of the 9 videos of some\.csv .* is 2: "):
        run_ranks(add_videos_on_two_ranks, (tmp_path / "quarantine.csv", 2), num_local_ranks=2)
