"""The rows of the paper's tables: what the paper says, and which config builds each."""

from collections.abc import Iterator
from dataclasses import dataclass

from stvit_video.engine.paper_figures import (
    DETECTION,
    MOVED,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    TABLE_9,
)


@dataclass(frozen=True)
class PaperRow:
    """One row.

    Attributes:
        table: number of the table.
        name: of the row.
        config: path from ``configs/``.
        overrides: keys and values in turn.
        base: name of the row that its speed is compared with; its own name for a base.
        top1: the paper's accuracy in percent; in tables 5 and 9 its box AP on COCO.
        gflops: the paper's, as it is printed; empty where the table has none.
        throughput: the paper's images (table 6: frames) a second on a V100; None for none.
        is_video: its input is 32 x 224 x 224, not 224 x 224.
        is_detector: its input is 800 x 1344.
    """

    table: int
    name: str
    config: str
    overrides: tuple[str, ...]
    base: str
    top1: float
    gflops: str = ""
    throughput: float | None = None
    is_video: bool = False
    is_detector: bool = False

    @property
    def is_base(self) -> bool:
        """Whether it is a dense model that others are compared with."""
        return self.base == self.name

    @property
    def tolerance(self) -> tuple[float, float]:
        """How far below and above the paper's GFLOPs a count may be, as shares of them.

        Those of the semantic Swins count keys and values once for each window that holds them;
        projected once a token they cost up to 2% less, and up to 3.5% where there are three
        generations. Those of the detectors count all padding.
        """
        below = {2: 0.02, 3: 0.035, 5: 0.01, 6: 0.02}.get(self.table, 0.005)
        return 0.005 if self.is_base else below, 0.01 if self.table == 5 else 0.005


def paper_rows() -> list[PaperRow]:
    """All rows, table by table."""
    first = [*_table_1(), *_table_2(), *_table_3(), *_table_4(), *_table_5()]
    return [*first, *_table_6(), *_table_7(), *_table_8(), *_table_9()]


def _table_1() -> Iterator[PaperRow]:
    for size, ((gflops, speed, top1), *semantic) in TABLE_1.items():
        base, config = f"DeiT-{size}", f"imagenet/deit_{size.lower()}.yaml"
        # Counted with 196 tokens, so without a class token.
        plain = ("DEIT.CLASS_TOKEN", "False")
        yield PaperRow(1, base, config, plain, base, top1, gflops, speed)
        for tokens, (gflops, speed, top1) in zip((16, 36, 64, 100), semantic, strict=True):
            yield PaperRow(
                1,
                f"STViT-DeiT-{size}, {tokens} tokens",
                f"imagenet/stvit_deit_{size.lower()}.yaml",
                ("STVIT.NUM_TOKENS", str(tokens)),
                base,
                top1,
                gflops,
                speed,
            )


def _table_2() -> Iterator[PaperRow]:
    for size, ((gflops, speed, top1), *semantic) in TABLE_2.items():
        base, config = f"Swin-{size}", f"imagenet/swin_{size.lower()}.yaml"
        yield PaperRow(2, base, config, (), base, top1, gflops, speed)
        variants = [(f"{n} tokens", ("STVIT.NUM_TOKENS", str(n))) for n in (4, 9, 16)]
        variants.append(("9 tokens, earlier", ("STVIT.LAYOUT", MOVED[size])))
        for (what, overrides), (gflops, speed, top1) in zip(variants, semantic, strict=True):
            yield PaperRow(
                2,
                f"STViT-Swin-{size}, {what}",
                f"imagenet/stvit_swin_{size.lower()}.yaml",
                overrides,
                base,
                top1,
                gflops,
                speed,
            )


def _table_3() -> Iterator[PaperRow]:
    for size, models in TABLE_3.items():
        base = f"Swin-{size}"
        for name, prefix, (gflops, speed, top1) in zip(
            (base, f"STViT-R-Swin-{size}"), ("", "stvit_r_"), models, strict=True
        ):
            config = f"imagenet/{prefix}swin_{size.lower()}.yaml"
            yield PaperRow(3, name, config, (), base, top1, gflops, speed)


def _table_4() -> Iterator[PaperRow]:
    for size, (gflops, top1) in TABLE_4.items():
        config = f"imagenet/stvit_deit_{size.lower()}.yaml"
        tokens = ("STVIT.NUM_TOKENS", "16")
        yield PaperRow(4, f"STViT-DeiT-{size}", config, tokens, f"DeiT-{size}", top1, gflops)


def _table_5() -> Iterator[PaperRow]:
    for size, ((gflops, ap), (semantic_gflops, semantic_ap)) in TABLE_5.items():
        base = f"Swin-{size}, backbone"
        config = f"imagenet/swin_{size.lower()}.yaml"
        yield PaperRow(5, base, config, (), base, ap, gflops, is_detector=True)
        # As released, with all padding computed; then with windows cut off at the border.
        for border, what, printed in (
            ("released", "released padding", semantic_gflops),
            ("cut", "no padding", ""),
        ):
            yield PaperRow(
                5,
                f"STViT-R-Swin-{size}, {what}",
                f"imagenet/stvit_r_swin_{size.lower()}.yaml",
                (*DETECTION, "STVIT.BORDER", border),
                base,
                semantic_ap,
                printed,
                is_detector=True,
            )


def _table_6() -> Iterator[PaperRow]:
    for size, models in TABLE_6.items():
        base = f"Video Swin-{size}"
        for name, prefix, (gflops, speed, top1) in zip(
            (base, f"STViT-Swin-{size}, video"), ("", "stvit_"), models, strict=True
        ):
            config = f"k400/{prefix}swin_{size.lower()}.yaml"
            yield PaperRow(6, name, config, (), base, top1, gflops, speed, is_video=True)


def _table_7() -> Iterator[PaperRow]:
    for initialization, top1 in TABLE_7.items():
        overrides = ("STVIT.INITIALIZATION", initialization)
        yield PaperRow(
            7, initialization, "imagenet/stvit_deit_s.yaml", overrides, "spatial+global", top1
        )


def _table_8() -> Iterator[PaperRow]:
    for layers, (gflops, top1) in TABLE_8.items():
        layout = f"base 4, stgm {layers}, semantic {8 - layers}"
        keys = f"({', '.join('0' * layers)})"
        overrides = ("STVIT.LAYOUT", layout, "STVIT.KEY_WINDOWS", keys)
        name = f"{layers} layers"
        yield PaperRow(8, name, "imagenet/stvit_deit_s.yaml", overrides, "2 layers", top1, gflops)


def _table_9() -> Iterator[PaperRow]:
    for name, (ap, keys) in TABLE_9.items():
        # As released, with all padding computed, which is how the paper counts (table 5).
        overrides = (*DETECTION, "STVIT.BORDER", "released", *keys)
        config = "imagenet/stvit_r_swin_s.yaml"
        yield PaperRow(9, name, config, overrides, "STViT-R", ap, is_detector=True)
