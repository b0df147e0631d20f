"""What a benchmark is, and what it is given to run on. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steady_runs import Settings

from classify.settings import Common

if TYPE_CHECKING:
    from classify.data import Sets
    from classify.features import Extractor, Labelled
    from classify.unfinished import Unfinished

Result = dict[str, Any]  # entry of a benchmark in results.json
Row = tuple[str, dict[str, str]]  # how the figures were chosen, {column: text}


@dataclass(frozen=True)
class InAll:
    """How a benchmark takes part in `classify all`.

    Attributes:
        values: Settings of `all` -> values of the benchmark's own options; those left out keep their defaults.
        options: Options that the benchmark adds to `classify all`.
    """

    values: Callable[[Any], dict[str, Any]] = lambda _: {}
    options: type[Settings] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A protocol: its options, how it measures, and how its figures are printed.

    Attributes:
        name: The command, and the key in results.json.
        what: One line for `--help`.
        settings: Settings of the command.
        run: Measures. Returns the entry of results.json, with accuracies and mAP in percent. Raises ValueError for
            options that do not fit the data.
        table: Title of the table that shows the figures. Benchmarks with the same title share a table.
        rows: Entry of results.json -> rows of that table. Figures of a row called "published" are chosen as published
            ones are, if need be on the test set; those of a row called "honest" never are.
        in_all: None if `classify all` leaves it out.
        several_labels: Whether it can measure images with several labels each.
        uses_features: Whether it needs the features of all training and test images.
        on_every_rank: Whether all ranks run it together; otherwise the first rank runs it alone.
    """

    name: str
    what: str
    settings: type[Common]
    run: Callable[[Bench, Any], Result]
    table: str
    rows: Callable[[Result], list[Row]]
    in_all: InAll | None = None
    several_labels: bool = False
    uses_features: bool = True
    on_every_rank: bool = False


@dataclass(frozen=True)
class Bench:
    """What a benchmark is given to run on.

    Attributes:
        sets: Training and test images.
        extractor: The backbone on its device.
        features: Of the training and the test images; None if no benchmark of the run uses features.
        unfinished: State from which an interrupted benchmark goes on.
    """

    sets: Sets
    extractor: Extractor
    features: tuple[Labelled, Labelled] | None
    unfinished: Unfinished

    @property
    def train(self) -> Labelled:
        assert self.features is not None  # Benchmark.uses_features
        return self.features[0]

    @property
    def test(self) -> Labelled:
        assert self.features is not None
        return self.features[1]
