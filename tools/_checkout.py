"""Imported first by every tool: finds the package of this checkout where it is not installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("stvit_video") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
