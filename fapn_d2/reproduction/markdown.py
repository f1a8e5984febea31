"""Tables in Markdown."""

from collections.abc import Sequence

from tabulate import tabulate


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are not padded, so that a change of one cell changes one line; ``|`` in cells is escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return tabulate(cells[1:], cells[0], tablefmt="github", stralign=None, numalign=None, disable_numparse=True)
