"""Which files places name; what is read of them is tested with the tools that read."""

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


def test_lists_have_labels_or_none(folder):
    (folder / "some.csv").write_text("b/2.mp4 7\n\na b.mp4 1\nb/1.MKV\nwith space.mp4\r\n")
    media = find_media([folder / "some.csv"])
    assert names(media, folder) == ["b/2.mp4", "a b.mp4", "b/1.MKV", "with space.mp4"]
    (folder / "i/list.csv").write_text("2.mp4,3\n")
    media = find_media([folder / "i/list.csv"], separator=",", prefix=folder / "b")
    assert names(media, folder) == ["b/2.mp4"]


def test_what_a_file_is_that_has_another_suffix(folder):
    assert not find_media([folder / "odd.jp2"]).are_images
    assert find_media([folder / "odd.jp2", folder / "i"], prefer_images=True).are_images


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        (["empty"], r"empty holds no videos or images .*: name another"),
        (["gone"], "There is no .*gone: name files, folders, or CSV files that exist"),
        (["gone.csv"], r"There is no .*gone\.csv"),
        (["blank.csv"], r"blank\.csv holds no videos or images"),
        (["b", "i"], r"0\.JPEG is an image, but .*1\.MKV is none"),
    ],
)
def test_places_that_name_nothing_are_refused(folder, places, sentence):
    (folder / "blank.csv").write_text("\n")
    with pytest.raises(UserError, match=sentence):
        find_media([folder / place for place in places])
