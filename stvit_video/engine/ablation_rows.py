"""The variants of the small-scale ablations as data: what is changed, and the paper's accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass

from stvit_video.engine.paper_rows import paper_rows

_DENSE, _SEMANTIC = "demo/deit_digits.yaml", "demo/stvit_deit_digits.yaml"

_INITIALIZATIONS = ("spatial", "global", "spatial+global", "spatial+position")
_POOLINGS = ("average", "max", "intra_inter")
_TOKENS = (4, 9, 16, 36)
# The studies compare many models, so each is trained for less long than the demo.
_BRIEFLY = (
    *("SOLVER.MAX_EPOCH", "4", "SOLVER.WARMUP_EPOCHS", "0.25"),
    *("SOLVER.BASE_LR", "1e-3"),
)
# Layers of the generation and of what follows it; all variants have as many layers.
_LAYOUTS = {
    2: "base 2, stgm 2, semantic 2",
    3: "base 2, stgm 3, semantic 1",
    4: "base 2, stgm 4",
}


@dataclass(frozen=True)
class Variant:
    """A model of the ablations.

    Attributes:
        study: what is varied.
        name: its value here.
        config: path from ``configs/``.
        overrides: of the config, "KEY", "value", ...
        paper_top1: accuracy of the paper's DeiT-S with this on ImageNet; None where it has none.
    """

    study: str
    name: str
    config: str
    overrides: tuple[str, ...] = ()
    paper_top1: float | None = None


def variants() -> list[Variant]:
    """All variants, study by study; the demo's semantic model, but trained briefly, is in each."""
    return list(_variants({(row.table, row.name): row.top1 for row in paper_rows()}))


def _variants(paper: dict[tuple[int, str], float]) -> Iterator[Variant]:
    yield Variant("demo", "DeiT", _DENSE, paper_top1=paper[1, "DeiT-S"])
    sixteen = paper[1, "STViT-DeiT-S, 16 tokens"]
    yield Variant("demo", "STViT-DeiT", _SEMANTIC, paper_top1=sixteen)
    for name in _INITIALIZATIONS:
        yield _brief("initialization", name, ("STVIT.INITIALIZATION", name), paper[7, name])
    for layers, layout in _LAYOUTS.items():
        keys = f"({', '.join('0' * layers)})"
        name, key = f"{layers} layers", "STVIT.KEY_WINDOWS"
        yield _brief("layers", name, ("STVIT.LAYOUT", layout, key, keys), paper[8, name])
    for name in _POOLINGS:
        yield _brief("pooling", name, ("STVIT.POOLING", name))
    for tokens in _TOKENS:
        name = f"{tokens} tokens"
        top1 = paper.get((1, f"STViT-DeiT-S, {name}"))
        yield _brief("tokens", name, ("STVIT.NUM_TOKENS", str(tokens)), top1)


def _brief(
    study: str, name: str, overrides: tuple[str, ...], paper_top1: float | None = None
) -> Variant:
    return Variant(study, name, _SEMANTIC, (*overrides, *_BRIEFLY), paper_top1)
