"""Measure whether attention is as good as free: every setting for which this project promises a figure.

    python benchmarks/bench_speed.py                  all settings of this machine; a few minutes each
    python benchmarks/bench_speed.py --only 'train'   those whose name matches
    python benchmarks/bench_speed.py --device cuda    those for a GPU, in less than ten minutes
    python benchmarks/bench_speed.py --table          measure nothing, print what was measured last

Each setting is one call of `sgenet bench` in a process of its own, and is printed as the command that repeats it. Its
rows are added to `results/speed-<device>.csv` when it is finished; a setting that this machine has finished today with
these versions is not repeated, so that an interrupted list goes on where it was. The table is printed last. The status
is 1 where a promised figure is not met.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from recording import results_file
from sgenet.bench.measuring import circumstances
from sgenet.bench.table import aligned
from speed import Row, Setting, measured, newest, read_rows, settings_for


def main() -> int:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression, found in the name")
    parser.add_argument("--again", action="store_true", help="measure what was measured today, too")
    parser.add_argument("--table", action="store_true", help="print the table only")
    parser.add_argument("--results", type=Path, help="the CSV file")
    options = parser.parse_args()
    about = {name: str(value) for name, value in circumstances(options.device).items()}
    file = options.results or results_file("speed", about["device"])
    settings = [s for s in settings_for(options.device) if re.search(options.only, s.name)]
    failed = []
    for number, setting in enumerate(settings, 1):
        done = newest(setting, read_rows(file), about)
        if options.table or (done and not options.again):
            continue
        print(f"\n[{number}/{len(settings)}] {setting.name}: sgenet {' '.join(setting.words)}", flush=True)
        start = time.perf_counter()
        if not run(setting, file):
            failed.append(setting.name)
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    rows = read_rows(file)
    shown = dict.fromkeys(("device", "threads")) if options.table else dict.fromkeys(about)
    lines = table(settings, rows, {name: about[name] for name in shown})
    print(f"\n{aligned(HEADER, lines, left=2)}\n\nrows: {file}")
    if failed:
        print(f"not measured: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed or any(line[-1] == "NO" for line in lines) else 0


HEADER = ("setting", "form", "measured", "quartiles", "noise", "must", "holds")


def run(setting: Setting, file: Path) -> bool:
    """One call of the command; whether it has finished."""
    command = [sys.executable, "-m", "sgenet.cli", *setting.words, "--csv", str(file)]
    return subprocess.run(command, check=False).returncode == 0


def table(settings: list[Setting], rows: list[Row], about: dict[str, str]) -> list[list[str]]:
    """A line for every promised figure that was measured."""
    lines = []
    for setting in settings:
        found = newest(setting, rows, about)
        for must in setting.musts if found else ():
            figure = measured(found, must)
            holds = "yes" if figure.value <= must.limit else "NO"
            cells = [f"{figure.value:.3f}", figure.spread, figure.noise, f"<= {must.limit:g}", holds]
            lines.append([setting.name, f"{must.form}{must.unit}", *cells])
    return lines


if __name__ == "__main__":
    sys.exit(main())
