"""Save weights to files, and check the totals of a load report."""

import torch


def saved(content, folder, name="weights.pth", **options):
    """Write ``content`` with ``torch.save`` and return its path."""
    torch.save(content, folder / name, **options)
    return folder / name


def accounted_for(report):
    """Return the number of the model's values in the report, with each name in one part only."""
    parts = (report.loaded, report.inflated, report.interpolated, report.mismatched, report.missing)
    names = [name for part in parts for name in part]
    assert len(names) == len(set(names))
    return sum(sum(part.values()) for part in parts)
