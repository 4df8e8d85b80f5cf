import re
import sys
from pathlib import Path

import plot_augmentations
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "augmentations.md"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draw the figures with the current code."""
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plot_augmentations.py", str(folder)])
        assert plot_augmentations.main() == 0
    return sorted(folder.iterdir())


def test_the_page_shows_every_figure_that_the_tool_draws(drawn):
    shown = re.findall(r"\]\(augmentations/(\w+\.png)\)", PAGE.read_text())
    assert sorted(shown) == [path.name for path in drawn]


def test_the_figures_in_the_repository_are_current(drawn):
    for path in drawn:
        kept = PAGE.parent / "augmentations" / path.name
        assert kept.stat().st_size < 150_000
        # The size depends on the labels, whose fonts differ slightly between machines.
        new, old = Image.open(path), Image.open(kept)
        assert abs(new.width - old.width) + abs(new.height - old.height) <= 4
        assert len(new.getcolors()) > 8
