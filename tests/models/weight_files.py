"""Writing weights to files, and adding up what a load report says of them."""

import torch


def saved(content, folder, name="weights.pth", **options):
    """Write ``content`` with ``torch.save`` and give its path."""
    torch.save(content, folder / name, **options)
    return folder / name


def accounted_for(report):
    """All values of the model, wherever the report puts them; each name is in one place."""
    parts = (report.loaded, report.inflated, report.interpolated, report.mismatched, report.missing)
    names = [name for part in parts for name in part]
    assert len(names) == len(set(names))
    return sum(sum(part.values()) for part in parts)
