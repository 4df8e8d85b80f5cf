"""Find media files; reading them is tested with the tools that read them."""

import pytest

from stvit_video.errors import UserError
from stvit_video.inference.media import find_media


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.mp4", "b/1.MKV", "a/x/0.avi", "notes.txt", "i/0.JPEG", "odd.jp2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(media, folder):
    return [file.relative_to(folder).as_posix() for file in media.files]


def test_folders_are_searched_in_order(folder):
    media = find_media([folder / "b", str(folder / "a"), folder / "b/2.mp4"])
    assert names(media, folder) == ["b/1.MKV", "b/2.mp4", "a/x/0.avi", "b/2.mp4"]
    assert not media.are_images
    media = find_media([folder / "i"])
    assert names(media, folder) == ["i/0.JPEG"]
    assert media.are_images


def test_csv_files_may_have_labels(folder):
    (folder / "some.csv").write_text("b/2.mp4 7\n\na b.mp4 1\nb/1.MKV\nwith space.mp4\r\n")
    media = find_media([folder / "some.csv"])
    assert names(media, folder) == ["b/2.mp4", "a b.mp4", "b/1.MKV", "with space.mp4"]
    (folder / "i/list.csv").write_text("2.mp4,3\n")
    media = find_media([folder / "i/list.csv"], separator=",", prefix=folder / "b")
    assert names(media, folder) == ["b/2.mp4"]


def test_files_with_an_unknown_suffix(folder):
    assert not find_media([folder / "odd.jp2"]).are_images
    assert find_media([folder / "odd.jp2", folder / "i"], prefer_images=True).are_images


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["empty"], r"empty has no videos or images .*: give another path"),
        (["gone"], "gone does not exist: give existing files, folders, or CSV files"),
        (["gone.csv"], r"gone\.csv does not exist"),
        (["blank.csv"], r"blank\.csv has no videos or images"),
        (["b", "i"], r"0\.JPEG is an image and .*1\.MKV is a video"),
    ],
)
def test_paths_without_media_are_refused(folder, paths, message):
    (folder / "blank.csv").write_text("\n")
    with pytest.raises(UserError, match=message):
        find_media([folder / path for path in paths])
