"""The race: self-supervised methods against the clock on CIFAR-10, ours beside others' code, a core each.

    nox -s bench-quality                                       # everything, about 13 hours of two cores; resumes
    python benchmarks/quality --budgets 20 --seeds 0           # a part of it, in an environment that has Lightly
    python benchmarks/quality --minutes 0.2 --seeds 0 --cores 0   # that it runs: few images, records kept apart
    python benchmarks/quality --table                          # Markdown, from the records
    python benchmarks/quality --plot docs/images/race.png      # kNN over minutes, from the records

What is raced, and by which rules: docs/results/race.md. Settings of every entrant: entrants/table.py in this folder.
A finished run is not repeated, unless its record is deleted; one that was killed starts again; one that failed is
recorded, and tried again only with --retry. Ctrl-C ends the two runs in hand."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # so that `benchmarks.quality` is found, however this is started


def main() -> int:
    from benchmarks.quality.entrants.table import ENTRANTS, with_changes
    from benchmarks.quality.records import RECORDS, Records

    parser = argparse.ArgumentParser(
        "benchmarks/quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budgets", nargs="+", type=float, default=[20, 60, 150], metavar="MINUTES")
    parser.add_argument("--minutes", type=float, help="one budget, for a trial: 2,000 images if below 1, records apart")
    parser.add_argument("--entrants", nargs="+", choices=list(ENTRANTS), help="all but the variants, if not given")
    parser.add_argument("--seeds", nargs="+", type=int, help="0 1 2 for 20 minutes, 0 for more, if not given")
    parser.add_argument("--set", nargs="+", default=[], metavar="ENTRANT.KEY=VALUE", help="settings of this race")
    parser.add_argument("--images", type=int, help="training images, from the first on; 50,000 if not given")
    parser.add_argument("--cores", nargs="+", type=int, help="numbers of one or two; the first two if not given")
    parser.add_argument("--retry", action="store_true", help="run those again that failed")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("CLUSTER_SSL_DATA", ROOT.parent / "shared" / "data")
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".data" / "quality", help="files in between")
    parser.add_argument("--records", type=Path, help=f"{RECORDS.relative_to(ROOT)} if not given")
    parser.add_argument("--table", action="store_true", help="print a Markdown table of the records, and end")
    parser.add_argument("--plot", type=Path, metavar="PICTURE", help="draw the records, and end")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # a job: one entrant, in this process
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)  # the folder of a job that is done
    given = parser.parse_args()
    if given.run:
        from benchmarks.quality.job import run_here

        run_here(given.run)
        return 0
    if given.score:
        from benchmarks.quality.scorer import score_here

        score_here(given.score)
        return 0
    is_trial = given.minutes is not None
    records = Records(given.records or (given.work / "trial-records" if is_trial else RECORDS))
    if given.table or given.plot:
        from benchmarks.quality.table import markdown

        if given.table:
            print(markdown(records.all()))
        if given.plot:
            from benchmarks.quality.plot import draw

            draw(records.all(), given.plot)
        return 0
    from benchmarks.quality.images import prepare
    from benchmarks.quality.race import Race

    n_images = given.images or (2_000 if is_trial and given.minutes < 1 else 50_000)
    race = Race(
        records,
        work=given.work,
        entrants=with_changes(given.set),
        images=prepare(given.data, given.work, n_images),
        cores=given.cores or sorted(os.sched_getaffinity(0))[:2],
        retry=given.retry,
    )
    return race.run([given.minutes] if is_trial else given.budgets, given.entrants, given.seeds)


if __name__ == "__main__":
    raise SystemExit(main())
