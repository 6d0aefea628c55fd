"""Tables that fit the terminal: names break where a part of them ends, columns that have no room go below."""

import copy
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table

from gradprobe.plotting.broken import NAME, SPACE, broken, least

ENOUGH = 10_000  # characters; wider than any table


def fitted(table: Table, console: Console, options: ConsoleOptions) -> list[Table | str]:
    """Return the table itself if it fits; else with names of several lines, or in blocks that begin with its names.

    Args:
        table: its first column holds names. Texts of other columns break like them if they are left-aligned, else at
            spaces; those of columns with ``no_wrap`` do not.
        console: it measures.
        options: of the console; ``max_width`` is the room there is.
    """

    def width(part: Table) -> int:
        return natural_width(part, console)

    room = options.max_width
    if width(table) <= room or not (table.rows and table.show_header):  # without a header a block would mean nothing
        return [table]
    whole = list(range(len(table.columns)))
    if (spare := room - width(_narrowed(table, whole, 0))) >= 0:
        return [_narrowed(table, whole, spare)]
    blocks = [[0]]
    for index in whole[1:]:
        if blocks[-1] != [0] and width(_narrowed(table, [*blocks[-1], index], 0)) > room:
            blocks.append([0])
        blocks[-1].append(index)
    parts = [_narrowed(table, block, max(0, room - width(_narrowed(table, block, 0)))) for block in blocks]
    for part in parts:
        part.title, part.caption = None, None
    title, caption = ([str(text)] if text else [] for text in (table.title, table.caption))
    return [*title, *parts, *caption]


def natural_width(table: Table, console: Console) -> int:
    """Return the characters that a table takes where there is room enough."""
    return Measurement.get(console, console.options.update_width(ENOUGH), table).maximum


def _narrowed(table: Table, indices: Sequence[int], spare: int) -> Table:
    """Return some columns of a table, texts as narrow as they get but for what is spare, the first column's first."""
    made = copy.copy(table)
    made.columns, made.rows = [], []
    cells = []
    for column in (table.columns[i] for i in indices):
        texts, header = list(column.cells), column.header
        if not column.no_wrap:
            places = NAME if column.justify == "left" else SPACE
            lines = [line for text in texts if isinstance(text, str) for line in text.splitlines()]
            whole = [len(str(text)) for text in texts if not isinstance(text, str)]  # such as a title within the table
            room = max([least(lines, places), least([str(header)], SPACE), *whole])
            natural = min(max([room, len(str(header)), *map(len, lines)]), column.max_width or ENOUGH)
            given = max(0, min(spare, natural - room))
            spare -= given
            texts = [broken(text, room + given, places) if isinstance(text, str) else text for text in texts]
            header = broken(str(header), room + given, SPACE)
        made.add_column(header, justify=column.justify, style=column.style, no_wrap=True)
        cells.append(texts)
    for row, line in zip(table.rows, zip(*cells, strict=True), strict=True):
        made.add_row(*line, style=row.style, end_section=row.end_section)
    return made
