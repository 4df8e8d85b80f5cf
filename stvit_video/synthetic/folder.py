"""Write data set folders atomically, with the recipe of their content."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from stvit_video.errors import UserError

_RECIPE_FILE = "recipe.json"


def make_folder_atomically(
    folder: Path, description: Mapping[str, object], write: Callable[[Path], None]
) -> bool:
    """Write a data set, unless ``folder`` already contains it.

    The data set is written next to ``folder`` and renamed at the end, so ``folder`` is never
    incomplete.

    Args:
        folder: of the data set.
        description: determines the content; saved in the folder as recipe.json.
        write: writes the content into an empty folder.

    Returns:
        Whether the data set was written.

    Raises:
        UserError: ``folder`` contains something else.
    """
    if _contains(folder, description):
        return False
    partial_folder = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        partial_folder.mkdir(parents=True)
        write(partial_folder)
        (partial_folder / _RECIPE_FILE).write_text(json.dumps(description, indent=2) + "\n")
        partial_folder.replace(folder)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return True


def _contains(folder: Path, description: Mapping[str, object]) -> bool:
    recipe_file = folder / _RECIPE_FILE
    if recipe_file.is_file() and json.loads(recipe_file.read_text()) == description:
        return True
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"{folder} contains something else than this {description['dataset']} data set; choose "
            "another folder, or remove it"
        )
    return False
