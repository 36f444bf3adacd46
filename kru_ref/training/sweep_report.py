"""What the runs of a sweep have reached: one view while they go, and tables and a picture."""

import math
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..extras import require
from ..files import shortened
from .sweep import Status

TABLE, PICTURE = "sweep.csv", "sweep.png"
# What runs are compared by: the test set is read last.
METRIC = "validation_loss"
# Rows of a view, beyond which runs that wait or have ended are only counted.
MOST_ROWS = 24


def rows(statuses: Sequence[Status]) -> list[dict[str, Any]]:
    """Return a row for each run: what distinguishes it, its state, updates and metrics."""
    return [
        {
            **of.run.varied,
            "state": of.state,
            "updates": of.updates,
            **{name: v for name, v in of.last.items() if name.startswith(("validation_", "test_"))},
            "seconds": of.last.get("seconds", math.nan),
            "why": of.why,
        }
        for of in statuses
    ]


def view(statuses: Sequence[Status]) -> Any:
    """Return a table of all runs, for a terminal: those that go or went wrong first."""
    rich = require("rich.table", "sweep")
    counts = Counter(of.state for of in statuses)
    title = ", ".join(f"{n} {state}" for state, n in counts.items())
    shown = sorted(statuses, key=lambda of: of.state in ("waiting", "ended"))[:MOST_ROWS]
    if len(shown) < len(statuses):
        title += f"; {len(shown)} of {len(statuses)} runs"
    table = rich.Table(title=title, title_justify="left")
    for name in ("run", "state", "update", "loss", "validation", "why"):
        table.add_column(name, overflow="fold")
    for of in shown:
        loss, validation = (of.last.get(name) for name in ("loss", "validation_loss"))
        table.add_row(
            of.run.folder.name,
            of.state,
            f"{of.updates:,} of {of.run.task.updates:,}",
            "" if loss is None else f"{loss:.4g}",
            "" if validation is None else f"{validation:.4g}",
            shortened(of.why),
        )
    return table


@contextmanager
def watched(statuses: Callable[[], Sequence[Status]], quiet: bool) -> Iterator[None]:
    """Show all runs as they go, until what is within ends."""
    if quiet:
        yield
        return
    console = require("rich.console", "sweep").Console(stderr=True)
    if not console.is_terminal:
        yield
        console.print(view(statuses()))
        return
    ended = threading.Event()
    with require("rich.live", "sweep").Live(view(statuses()), console=console) as live:

        def refresh() -> None:
            while not ended.wait(1.0):
                live.update(view(statuses()))

        refreshing = threading.Thread(target=refresh, daemon=True)
        refreshing.start()
        try:
            yield
        finally:
            ended.set()
            refreshing.join()
            live.update(view(statuses()))


def summary(statuses: Sequence[Status]) -> list[str]:
    """Return lines of Markdown: each combination of settings, over its seeds, the best first."""
    settings = [name for name in (statuses[0].run.varied if statuses else ()) if name != "seed"]
    groups: dict[tuple[Any, ...], list[Status]] = {}
    for of in statuses:
        groups.setdefault(tuple(of.run.varied[name] for name in settings), []).append(of)
    ranked = []
    for values, group in groups.items():
        found = [of.last[METRIC] for of in group if of.state == "ended"]
        others = Counter(of.state for of in group if of.state != "ended")
        cells = [f"{value}" for value in values] + [f"{len(found)} of {len(group)}"]
        cells += [_spread(found), ", ".join(f"{n} {state}" for state, n in others.items())]
        ranked.append((statistics.mean(found) if found else math.inf, f"| {' | '.join(cells)} |"))
    head = [*settings, "ended", METRIC.replace("_", " "), "otherwise"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return lines + [line for _, line in sorted(ranked, key=lambda pair: pair[0])]


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4g}" if values else ""
    return f"{statistics.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def write(statuses: Sequence[Status], out: Path) -> list[Path]:
    """Write all runs as a CSV, and a picture of the metric against each setting."""
    pandas = require("pandas", "sweep")
    pandas.DataFrame(rows(statuses)).to_csv(out / TABLE, index=False)
    settings = statuses[0].run.varied if statuses else {}
    ended = [of for of in statuses if of.state == "ended"]
    if not settings or not ended:
        return [out / TABLE]
    draw(ended, list(settings), out / PICTURE)
    return [out / TABLE, out / PICTURE]


def draw(ended: Sequence[Status], settings: Sequence[str], path: Path) -> None:
    """Draw each run as a point over each setting, and a line through the means."""
    require("matplotlib", "sweep").use("Agg")
    plt = require("matplotlib.pyplot", "sweep")
    fig, all_axes = plt.subplots(
        1, len(settings), figsize=(3.2 * len(settings), 3.2), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axes, name in zip(all_axes[0], settings, strict=True):
        points: dict[Any, list[float]] = {}
        for of in ended:
            points.setdefault(of.run.varied[name], []).append(of.last[METRIC])
        are_numbers = all(type(value) in (int, float) for value in points)
        values = sorted(points) if are_numbers else sorted(points, key=str)
        at = values if are_numbers else list(range(len(values)))
        for x, value in zip(at, values, strict=True):
            axes.plot([x] * len(points[value]), points[value], "o", color="0.5", markersize=4)
        axes.plot(at, [statistics.mean(points[value]) for value in values], color="0")
        axes.set(xlabel=name.replace("_", " "))
        if are_numbers and min(values) > 0 and max(values) >= 10 * min(values):
            axes.set_xscale("log")
        if not are_numbers:
            axes.set_xticks(at, [str(value) for value in values])
    all_axes[0][0].set(ylabel=METRIC.replace("_", " "))
    fig.savefig(path, dpi=120)
    plt.close(fig)
