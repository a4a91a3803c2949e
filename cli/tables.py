"""A table that fits: on a narrow screen it wraps texts, then drops columns and names them, then shows a row as lines.

Owed: a column that is shown is shown whole, and the columns that name a row (a txid) are always shown. In a file or a pipe, where
the width is not known, every row is one line with all its columns, so that grep finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_GAP: Final = 2
_WRAPPED_MIN: Final = 16
"""Columns of the screen below which a text that may wrap is dropped instead."""


@dataclass(frozen=True, slots=True)
class Column:
    """``drop``: 0 is never dropped; of the others the highest goes first. ``wrap``: a text that may take several lines."""

    name: str
    drop: int = 0
    wrap: bool = False
    right: bool = False


@dataclass(slots=True)
class PrintedTable:
    """Rows under columns, to be printed by rich. ``add`` takes a row's cells, in the order of the columns, and its style."""

    columns: Sequence[Column]
    rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def add(self, *cells: object, style: str = "") -> None:
        """One more row."""
        self.rows.append((tuple(_printable(str(cell)) for cell in cells), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As lines of at most the console's width."""
        from rich.text import Text

        shown, widths = self._fitted(options.max_width)
        if sum(widths) + _GAP * (len(widths) - 1) > options.max_width:
            yield from self._stacked(options.max_width)
            return
        yield Text()
        yield self._line([self.columns[number].name for number in shown], shown, widths, "bold")
        yield Text("-" * (sum(widths) + _GAP * (len(widths) - 1)), "dim")
        for cells, style in self.rows:
            folded = [_folded(cells[number], width) for number, width in zip(shown, widths, strict=True)]
            for line in range(max(map(len, folded), default=0)):
                texts = [each[line] if line < len(each) else "" for each in folded]
                yield self._line(texts, shown, widths, style)
        dropped = [column.name for number, column in enumerate(self.columns) if number not in shown]
        if dropped:
            yield Text(f"not shown in {options.max_width} columns: {', '.join(dropped)} (-o json has them)", "dim")

    def _fitted(self, width: int) -> tuple[list[int], list[int]]:
        """Which columns are shown, and how wide each is; too wide in all if not even what must be shown fits."""
        shown = list(range(len(self.columns)))
        while True:
            widths = [self._width(number) for number in shown]
            excess = sum(widths) + _GAP * (len(shown) - 1) - width
            for place, number in sorted(enumerate(shown), key=lambda each: -widths[each[0]]):
                if self.columns[number].wrap and excess > 0:
                    least = min(widths[place], max(_WRAPPED_MIN, len(self.columns[number].name)))
                    less = min(excess, widths[place] - least)
                    widths[place] -= less
                    excess -= less
            droppable = [number for number in shown if self.columns[number].drop]
            if excess <= 0 or not droppable:
                return shown, widths
            shown.remove(max(droppable, key=lambda number: self.columns[number].drop))

    def _width(self, number: int) -> int:
        from rich.cells import cell_len

        return max(cell_len(text) for text in (self.columns[number].name, *(cells[number] for cells, _ in self.rows)))

    def _line(self, texts: Sequence[str], shown: Sequence[int], widths: Sequence[int], style: str) -> Text:
        from rich.cells import cell_len
        from rich.text import Text

        padded = []
        for text, number, width in zip(texts, shown, widths, strict=True):
            space = " " * (width - cell_len(text))
            padded.append(space + text if self.columns[number].right else text + space)
        return Text((" " * _GAP).join(padded).rstrip(), style, no_wrap=True)

    def _stacked(self, width: int) -> Iterator[Text]:
        from rich.text import Text

        for cells, style in self.rows:
            yield Text()
            for column, cell in zip(self.columns, cells, strict=True):
                named = f"{column.name}: {cell}" if column.name else cell
                yield from (Text(line, style, no_wrap=True) for line in _folded(named, width))


def _folded(text: str, width: int) -> list[str]:
    """``text`` as lines of at most ``width``; a word that is longer is cut into lines, and nothing is lost."""
    from rich.cells import cell_len, chop_cells

    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            pieces = chop_cells(word, width) or [""]
            lines[len(lines) - (not lines[-1]) :] = pieces
    return lines


def _printable(text: str) -> str:
    """What stands in a cell comes from others too: nothing in it may move the cursor or break the line."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
