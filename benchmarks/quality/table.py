"""The records as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.quality.entrants.table import ENTRANTS, RANDOM
from benchmarks.quality.records import Record

LABELS = {name: entrant.label for name, entrant in ENTRANTS.items()}
LABELS |= {"random": "random network", "random_sobel": "random network with Sobel filters"}
HEAD = ("", "kNN, k = 200", "kNN, k = 20", "linear", "images/s", "epochs", "MiB", "seeds")


def markdown(records: Sequence[Record]) -> str:
    """A table for each budget, best first: mean over seeds, ± the standard deviation where there are several."""
    if not records:
        return "No records yet."
    blocks = []
    random = [record for record in records if record["entrant"] in RANDOM]
    for minutes in sorted({record["minutes"] for record in records} - {0}):
        rows = [
            "| " + " | ".join((f"{minutes:g} minutes of a core", *HEAD[1:])) + " |",
            "| --- |" + " ---: |" * (len(HEAD) - 1),
        ]
        mine = [record for record in records if record["minutes"] == minutes]
        done = _by_entrant([record for record in mine if record["state"] == "finished"])
        order = sorted(done, key=lambda name: -_mean(done[name], "knn200"))
        rows += [_row(_label(name), done[name]) for name in order]
        rows += [_row(LABELS[name], found) for name, found in _by_entrant(random).items()]
        failed = [record for record in mine if record["state"] == "failed"]
        rows += [f"\n{_label(one['entrant'])}, seed {one['seed']}, failed: {one['error']}" for one in failed]
        blocks.append("\n".join(rows))
    return "\n\n".join([*blocks, _foot(records)])


def _by_entrant(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["entrant"], []).append(record)
    return found


def _label(name: str) -> str:
    is_ours = name in ENTRANTS and ENTRANTS[name].is_ours
    return f"**{LABELS[name]}**" if is_ours else LABELS.get(name, name)


def _mean(records: Sequence[Record], score: str) -> float:
    mean: float = statistics.mean(record["final"][score] for record in records)
    return mean


def _row(label: str, records: Sequence[Record]) -> str:
    cells = [label]
    for score in ("knn200", "knn20", "linear"):
        values = [record["final"][score] for record in records]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f}{spread}")
    if records[0]["steps"]:
        cells.append(f"{statistics.mean(record['images_per_s'] for record in records):.0f}")
        cells.append(f"{statistics.mean(record['n_images'] / record['n_train'] for record in records):.1f}")
        cells.append(f"{max(record['peak_rss_mib'] for record in records):,}")
    else:
        cells += ["", "", ""]
    return "| " + " | ".join([*cells, str(len(records))]) + " |"


def _foot(records: Sequence[Record]) -> str:
    """What all of it was measured with; several where the records differ."""

    def all_of(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    machines = all_of(
        [f"{one['machine']['processor']} ({' '.join(one['machine'].get('flags', []))})" for one in records]
    )
    names = dict.fromkeys(name for one in records for name in one["versions"])
    found = [f"{name} {all_of([str(one['versions'].get(name)) for one in records])}" for name in names]
    return f"Machine: {machines}. Versions: {'; '.join(found)}. Dates: {all_of([one['date'] for one in records])}."
