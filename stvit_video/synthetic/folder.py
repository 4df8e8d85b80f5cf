"""Data set folders that are whole or not there, and that say what they hold."""

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
    """Write a data set, unless ``folder`` holds it already.

    It is written beside ``folder`` and renamed at the end: a folder of that name is whole.

    Args:
        folder: of the data set.
        description: what determines its contents; kept in the folder, in recipe.json.
        write: writes the contents into an empty folder.

    Returns:
        Whether it had to be written.

    Raises:
        UserError: ``folder`` holds something else.
    """
    if _holds(folder, description):
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


def _holds(folder: Path, description: Mapping[str, object]) -> bool:
    recipe_file = folder / _RECIPE_FILE
    if recipe_file.is_file() and json.loads(recipe_file.read_text()) == description:
        return True
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"{folder} holds something else than this {description['dataset']} data set; name "
            "another folder, or remove it"
        )
    return False
