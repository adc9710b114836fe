"""The settings for which this project promises figures of speed and memory, and their rows in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sgenet.bench.result import key
from sgenet.bench.settings import BenchSettings

__all__ = ["Figure", "Must", "Row", "Setting", "measured", "newest", "read_rows", "settings_for"]

Row = dict[str, str]

# How often each shape of a module's benchmark occurs in ResNet-50, by the height of the map.
BLOCKS = {"56": 3, "28": 4, "14": 6, "7": 3}
PASSES_OF_A_COPY = 2  # it reads the map and writes it


@dataclass(frozen=True)
class Must:
    """A promise.

    Attributes:
        form: Of which row.
        limit: The most that its figure may be.
        figure: "ratio" of times; "peak": ratio of peak memory; "passes": the time over all blocks of a ResNet-50, in
            units of one pass over the maps.
    """

    form: str
    limit: float
    figure: Literal["ratio", "peak", "passes"] = "ratio"

    @property
    def unit(self) -> str:
        """What stands behind the form in a table."""
        return {"ratio": "", "peak": ", peak memory", "passes": ", passes"}[self.figure]


@dataclass(frozen=True)
class Setting:
    """One call of `sgenet bench`.

    Attributes:
        name: In words.
        options: What is measured.
        musts: What is promised of it.
    """

    name: str
    options: BenchSettings
    musts: tuple[Must, ...] = ()

    @property
    def words(self) -> list[str]:
        """The words after `sgenet` that measure it."""
        words = ["bench", self.options.model] if self.options.module is None else ["bench"]
        for field in fields(BenchSettings):
            value = getattr(self.options, field.name)
            if field.name == "model" or value == field.default:
                continue
            words.append("--time" if field.name == "seconds" else f"--{field.name}")
            if value is not True:
                words.append(",".join(value) if isinstance(value, tuple) else str(value))
        return words


@dataclass(frozen=True)
class Figure:
    """What was measured for a promise.

    Attributes:
        value: The figure.
        spread: Its quartiles, in words.
        noise: The ratio of the baseline's second copy, in words.
    """

    value: float
    spread: str
    noise: str


def settings_for(device: str) -> list[Setting]:
    """The settings for a device, "cpu" or "cuda"."""
    return list(_for_gpu()) if device == "cuda" else [*_networks_for_cpu(), *_modules_for_cpu()]


def _networks_for_cpu() -> Iterator[Setting]:
    for batch, limits in ((8, (1.03, 1.03)), (1, (1.05, 1.04)), (32, (1.03, 1.02))):
        for dtype, limit in zip(("float32", "bfloat16"), limits, strict=True):
            yield _on_cpu(f"inference, batch {batch}", dtype, Must("sge", limit), batch=batch)
    for dtype, limit in (("float32", 1.03), ("bfloat16", 1.02)):
        yield _on_cpu("inference, batch 8, contiguous", dtype, Must("sge", limit), layout="contiguous")
    for dtype, limit in (("float32", 1.06), ("bfloat16", 1.08)):
        taken = {"optimize": True, "compile": True, "freeze": True}
        yield _on_cpu("inference, batch 8, optimized, compiled, frozen", dtype, Must("sge", limit), **taken)
    for dtype, limit, unfused in (("float32", 1.06, 1.18), ("bfloat16", 1.05, 1.30)):
        both = (Must("sge", limit), Must("sge unfused", unfused))
        yield _on_cpu("inference, batch 8, compiled", dtype, *both, compile=True)
    memory = Must("sge", 1.02, "peak")
    for dtype in ("float32", "bfloat16"):
        yield _on_cpu("training, batch 8", dtype, Must("sge", 1.07), memory, mode="train")
    musts = (Must("sge", 1.08), memory, Must("sge unfused", 1.22), Must("sge unfused", 1.02, "peak"))
    yield _on_cpu("training, batch 8, compiled", "float32", *musts, mode="train", compile=True)


def _modules_for_cpu() -> Iterator[Setting]:
    joined, alone = Must("residual+ReLU", 1.05), {"module": "sge"}
    # "Backward alone" by itself, and with what autograd needs to call it.
    musts = (Must("forward", 1.35), joined, Must("backward operator", 2.2), Must("backward", 2.2))
    yield _on_cpu("module alone, batch 8", "float32", *musts, **alone)
    yield _on_cpu("module alone, batch 8", "bfloat16", Must("forward", 1.6), joined, **alone)
    for dtype in ("float32", "bfloat16"):
        yield _on_cpu("module alone, batch 32", dtype, joined, batch=32, **alone)


def _on_cpu(name: str, dtype: str, *musts: Must, **options: Any) -> Setting:  # noqa: ANN401  # those of the settings
    # The whole list is to end within the hour; SE is left out where each network is compiled, which takes the longest.
    common: dict[str, Any] = {"device": "cpu", "seconds": 40.0}
    if options.get("compile"):
        common["attention"] = ("sge",)
    return Setting(f"{name}, {dtype}", BenchSettings(**common | options | {"dtype": dtype}), musts)


def _for_gpu() -> Iterator[Setting]:
    common: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16", "batch": 256, "seconds": 20.0}
    alone = BenchSettings(module="sge", **common)
    yield Setting("module alone, batch 256, bfloat16", alone, (Must("forward+backward", 6.5, "passes"),))
    # SE is left out where each network is compiled, which takes the most of the ten minutes.
    for mode, limit, word in (("train", 1.03, "training"), ("infer", 1.02, "inference")):
        for compiled in (False, True):
            attention = ("sge",) if compiled else None
            options = BenchSettings(mode=mode, compile=compiled, attention=attention, **common)  # type: ignore[arg-type]
            name = f"{word}, batch 256{', compiled' if compiled else ''}, bfloat16"
            yield Setting(name, options, (Must("sge", limit),))


def read_rows(file: Path) -> list[Row]:
    """All rows of a CSV file; none where there is no file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def newest(setting: Setting, rows: Sequence[Row], about: Mapping[str, str]) -> list[Row]:
    """The rows of the last measurement of a setting under given circumstances; none where it was not measured."""
    wanted = {name: str(value) for name, value in key(setting.options).items()} | dict(about)
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    last: dict[tuple[str, str], Row] = {(row["form"], row["input"]): row for row in found}
    return list(last.values())


def measured(rows: Sequence[Row], must: Must) -> Figure:
    """The figure of a promise: of the worst shape, where there are several."""
    own = [row for row in rows if row["form"] == must.form]
    if must.figure == "peak":
        return Figure(max(float(row["peak ratio"]) for row in own), "", "")
    if must.figure == "passes":
        return _passes(own)
    worst = max(own, key=lambda row: float(row["ratio"]))
    again = [r for r in rows if r["form"] == f"{worst['baseline']} again" and r["input"] == worst["input"]]
    return Figure(
        float(worst["ratio"]),
        f"{float(worst['lower quartile']):.3f}-{float(worst['upper quartile']):.3f}",
        f"{float(again[0]['ratio']):.3f}",
    )


def _passes(rows: Sequence[Row]) -> Figure:
    blocks = [BLOCKS[row["input"].rpartition("x")[2]] for row in rows]
    times = [float(row["ms"]) for row in rows]
    copies = [t / float(row["ratio"]) for t, row in zip(times, rows, strict=True)]
    ratio = sum(map(float.__mul__, map(float, blocks), times)) / sum(map(float.__mul__, map(float, blocks), copies))
    return Figure(ratio * PASSES_OF_A_COPY, "", "")
