"""Tables of cells as text: for a terminal, and as Markdown."""

from collections.abc import Collection, Sequence

Line = Sequence[str]


def text_table(header: Line, lines: Sequence[Line], *, left: Collection[int] = (0,)) -> str:
    """Write a table for a terminal.

    Args:
        header: names of the columns.
        lines: cells, as many in each line as in the header.
        left: columns of words, which begin at the left; numbers end at the right.
    """
    cells = [header, *lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def markdown_table(header: Line, lines: Sequence[Line], *, left: Collection[int] = (0,)) -> str:
    """Write a table of Markdown; the arguments are those of :func:`text_table`."""
    align = ["---" if column in left else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, align, *lines])
