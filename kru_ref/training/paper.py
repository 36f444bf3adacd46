"""The paper's tables and curves, each row beside the runs that repeat it.

Jose, Cissé and Fleuret, "Kronecker Recurrent Units" (ICML 2018): Tables 2 to 4, and of Figures 1
and 2 what can be read off their curves. What it took from other papers is theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .recipes import RECIPES
from .records import Record, is_whole


class Column(NamedTuple):
    """What a table measures, and how a run's record tells it."""

    title: str
    value: Callable[[Record], float | None]
    digits: int = 2

    def shown(self, value: float) -> str:
        """Write a value."""
        return f"{value:,.{self.digits}f}"


class Row(NamedTuple):
    """A model of the paper: its size and numbers of parameters as printed, and what it reached.

    ``found`` and ``recipes`` have an entry for each column: a number, or None or words where there
    is none; and the recipe that repeats it, if one does.
    """

    model: str
    hidden_size: int
    parameters: str
    recurrent: str
    found: tuple[float | str | None, ...]
    recipes: tuple[str | None, ...]


class Table(NamedTuple):
    """A table or a figure of the paper."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def result(metric: str, scale: float = 1.0) -> Callable[[Record], float | None]:
    """Return what reads a metric on test data, of a run that has ended."""

    def value(run: Record) -> float | None:
        return scale * run["last"][f"test_{metric}"] if is_whole(run) else None

    return value


def samples_until(loss: float) -> Callable[[Record], float | None]:
    """Return what finds after how many sequences the held-out loss was first below one."""

    def samples(run: Record) -> float | None:
        updates = _updates_until(run, loss)
        return None if updates is None else updates * run["settings"]["batch_size"]

    return samples


def updates_until(share: float) -> Callable[[Record], float | None]:
    """Return what finds after how many updates it was first below a share of the baseline."""

    def updates(run: Record) -> float | None:
        return _updates_until(run, share * run["baseline"])

    return updates


def _updates_until(run: Record, loss: float) -> float | None:
    evaluated = (line for line in run["curve"] if "validation_loss" in line)
    return next((line["step"] for line in evaluated if line["validation_loss"] < loss), None)


ACCURACY, BITS, NATS = result("accuracy", 100), result("bits"), result("loss")

TABLES = {
    2: Table(
        "Table 2: pixel MNIST",
        (Column("in order, %", ACCURACY), Column("permuted, %", ACCURACY)),
        (
            Row("LSTM", 128, "68K", "65K", (97.8, 91.3), (None, None)),
            Row("RC-uRNN", 512, "16K", "3.6K", (97.5, 93.3), (None, None)),
            Row("FC-uRNN", 512, "540K", "524K", (96.9, 94.1), (None, None)),
            Row("FC-uRNN", 116, "30K", "27K", (92.8, 92.1), (None, None)),
            Row("oRNN", 256, "11K", "8K", (97.2, None), (None, None)),
            Row("EURNN", 1024, "13K", "4K", (None, 93.7), (None, None)),
            Row("KRU", 512, "11K", "72", (96.4, 94.5), ("pixels-kru", "pixels-permuted-kru")),
        ),
    ),
    3: Table(
        "Table 3: Penn Treebank, characters",
        (Column("bits a character", BITS, 3),),
        (
            Row("RNN", 300, "120K", "90K", (1.60,), (None,)),
            Row("LSTM", 150, "127K", "90K", (1.59,), ("ptb-lstm-150",)),
            Row("oRNN", 512, "183K", "130K", (1.68,), (None,)),
            Row("KRU", 411, "120K", "38K", (1.60,), ("ptb-kru-411",)),
            Row("RNN", 600, "420K", "360K", (1.51,), (None,)),
            Row("LSTM", 300, "435K", "360K", (1.45,), (None,)),
            Row("KRU", 993, "418K", "220K", (1.48,), (None,)),
            Row("KRU-LSTM", 500, "377K", "250K", (1.47,), ("ptb-kru-lstm-500",)),
        ),
    ),
    4: Table(
        "Table 4: music, nats a frame",
        (Column("JSB", NATS), Column("Piano-midi", NATS)),
        (
            Row("RNN", 100, "20K", "10K", (9.10, 9.03), ("jsb-rnn-100", "piano-rnn-100")),
            Row("LSTM", 36, "20K", "5.1K", (8.67, 9.03), ("jsb-lstm-36", "piano-lstm-36")),
            Row("KRU", 100, "10K", "58", (8.59, 8.28), ("jsb-kru-100", "piano-kru-100")),
            Row(
                "KRU-LSTM", 45, "19K", "172", (8.54, 8.18), ("jsb-kru-lstm-45", "piano-kru-lstm-45")
            ),
        ),
    ),
}


def _solved(T: int) -> Column:
    return Column(f"T = {T:,}: updates until below 1 % of the baseline", updates_until(0.01), 0)


def _learned(T: int) -> Column:
    return Column(f"T = {T}: samples until the error is below 0.05", samples_until(0.05), 0)


def _of_length(stem: str, model: str, lengths: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{stem}-{T}-{model}" for T in lengths)


DELAYS, LENGTHS = (1000, 2000), (100, 200, 400, 750)

FIGURES = {
    1: Table(
        "Figure 1: copying memory, N = 128",
        tuple(_solved(T) for T in DELAYS),
        (
            Row("KRU", 128, "", "56", (2000, 2000), _of_length("copying", "kru", DELAYS)),
            Row("RNN", 128, "", "", ("never", "never"), _of_length("copying", "rnn", DELAYS)),
            Row("LSTM", 128, "", "", ("never", "never"), _of_length("copying", "lstm", DELAYS)),
            Row("RC-uRNN", 128, "", "", ("never", "never"), ("copying-1000-restricted", None)),
            Row("FC-uRNN", 128, "", "", (2000, 2600), ("copying-1000-full", None)),
            Row("LRU, not in the paper", 128, "", "", (None, None), ("copying-1000-lru", None)),
        ),
    ),
    2: Table(
        "Figure 2: adding, N = 512",
        tuple(_learned(T) for T in LENGTHS),
        (
            Row(
                "KRU",
                512,
                "",
                "72",
                (50_000, 80_000, 190_000, 370_000),
                _of_length("adding", "kru", LENGTHS),
            ),
            Row(
                "LSTM",
                512,
                "",
                "",
                (100_000, 250_000, 500_000, 680_000),
                (None,) * 4,
            ),
        ),
    ),
}


def numbered(table: int | None, figure: int | None) -> Table:
    """Return a table, or else a figure, by the paper's number."""
    return FIGURES[figure or 0] if table is None else TABLES[table]


def recipes_of(table: Table) -> list[str]:
    """Return the recipes that repeat a table's rows, and those of the same with frozen matrices."""
    rows = [of for row in table.rows for of in (row, _twin(row))]
    return list(dict.fromkeys(recipe for row in rows for recipe in row.recipes if recipe))


def lines(table: Table, records: Sequence[Record]) -> Iterator[str]:
    """Yield a table in Markdown: the paper's figures, ours over seeds, and the differences."""
    yield f"**{table.title}**"
    yield ""
    titles = [f"{column.title}: paper | ours | difference" for column in table.columns]
    head = "model | N | parameters: paper | ours | recurrent: paper | ours"
    yield f"| {' | '.join([head, *titles])} | repeat it |"
    yield "|---" * (7 + 3 * len(table.columns)) + "|"
    for row in table.rows:
        yield _line(table, row, records)
        if any(_frozen(recipe) for recipe in row.recipes):
            yield _line(table, _twin(row), records)
    shown = recipes_of(table)
    for run in records:
        if run["recipe"] in shown and not is_whole(run):
            yield ""
            yield (
                f"Partial: {run['recipe']}, seed {run['seed']}, {run['updates']:,} of "
                f"{run['planned_updates']:,} updates."
            )


def _twin(row: Row) -> Row:
    """Return the row of the same runs with frozen matrices, which the paper has not."""
    nothing = tuple(None for _ in row.found)
    recipes = tuple(_frozen(recipe) for recipe in row.recipes)
    return Row(f"{row.model}, frozen", row.hidden_size, "", "", nothing, recipes)


def _frozen(recipe: str | None) -> str | None:
    return f"{recipe}-frozen" if f"{recipe}-frozen" in RECIPES else None


def _line(table: Table, row: Row, records: Sequence[Record]) -> str:
    """Return a row of a table in Markdown."""
    runs = [run for run in records if run["recipe"] in row.recipes]
    counted = [
        f"{runs[0][name]:,}" if runs else "" for name in ("parameters", "recurrent_parameters")
    ]
    cells = [row.model, str(row.hidden_size), row.parameters, counted[0], row.recurrent, counted[1]]
    for column, theirs, recipe in zip(table.columns, row.found, row.recipes, strict=True):
        found = [column.value(run) for run in runs if run["recipe"] == recipe and is_whole(run)]
        cells += compared(column, theirs, found)
    commands = [f"`kru-ref reproduce {recipe}`" for recipe in dict.fromkeys(row.recipes) if recipe]
    return f"| {' | '.join([*cells, ', '.join(commands)])} |"


def compared(
    column: Column, theirs: float | str | None, found: Sequence[float | None]
) -> tuple[str, str, str]:
    """Return what the paper has, our mean with the range over seeds, and the difference."""
    paper = theirs if isinstance(theirs, str) else "" if theirs is None else column.shown(theirs)
    reached = [value for value in found if value is not None]
    if not found:
        return paper, "", ""
    if len(reached) < len(found):
        return paper, f"{len(reached)} of {len(found)} seeds" if reached else "not reached", ""
    mean = sum(reached) / len(reached)
    ours = column.shown(mean)
    if len(reached) > 1:
        low, high = column.shown(min(reached)), column.shown(max(reached))
        ours += f" ({low} to {high}, {len(reached)} seeds)"
    if not isinstance(theirs, int | float):
        return paper, ours, ""
    difference = round(mean - theirs, column.digits) + 0.0  # no -0
    return paper, ours, f"{'+' if difference > 0 else ''}{column.shown(difference)}"
