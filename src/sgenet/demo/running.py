"""The demonstration from beginning to end: train, time, report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sgenet.demo.answer import number_word
from sgenet.demo.plan import NETWORKS, SGE, Plan, alone_in, claim, run_of, train_command
from sgenet.demo.result import DemoResult, NetworkResult, SeedRun
from sgenet.demo.training import Histories, train_missing

if TYPE_CHECKING:
    from torch import nn

    from sgenet.classification.config import TrainConfig
    from sgenet.classification.progress import Progress
    from sgenet.demo.timing import Times

__all__ = ["run_demo"]

_ABOUT_SHAPES = (
    "Drawn faces; the class of each is what its parts are: pointed or round ears, open or closed eyes, a smiling or a "
    "yawning mouth. Colour, proportions, place and size say nothing about it; loose parts of other faces lie around."
)


def run_demo(
    output: Path | str,
    *,
    seeds: int = 3,
    epochs: int = 10,
    train_size: int = 4000,
    val_size: int = 1000,
    image_size: int = 64,
    timing_rounds: int = 30,
    progress: Progress | None = None,
) -> DemoResult:
    """Train a small ResNet plain, with SE and with SGE on the generated shapes, and report how they compare.

    Runs that are finished in `output` are not repeated, an interrupted one goes on where its last checkpoint is, so
    that the same call again finishes what was left, or only writes the report anew.

    Args:
        output: Folder for the runs (`runs/NETWORK-seedN`) and the report (`report.html`).
        seeds: Runs of each network, with the seeds 0, 1, ...
        epochs: Passes over the training images.
        train_size: Training images.
        val_size: Validation images.
        image_size: Their side in pixels.
        timing_rounds: Rounds of the measurement of time.
        progress: Where to show how far all runs together are, and the table of the results at the end; the console if
            not given.

    Returns:
        The figures and where the report is.

    Raises:
        ConfigError: If a number cannot be used.
        RunError: If `output` cannot be written, or holds a demonstration with other settings.
    """
    output = Path(output)
    plan = Plan(seeds=seeds, epochs=epochs, train_size=train_size, val_size=val_size, image_size=image_size)
    configs = plan.configs(output)
    claim(output, plan)

    with alone_in(output):
        return _run(plan, output, configs, timing_rounds, progress)


def _run(
    plan: Plan,
    output: Path,
    configs: Mapping[tuple[str, int], TrainConfig],
    timing_rounds: int,
    progress: Progress | None,
) -> DemoResult:
    from sgenet.classification.progress import ConsoleProgress
    from sgenet.demo.table import summary
    from sgenet.demo.timing import timed
    from sgenet.models import load

    shown = ConsoleProgress() if progress is None else progress
    histories, trained = train_missing(configs, shown)
    models = {name: load(run_of(configs[name, 0])) for name in NETWORKS}
    times = timed(output, models, configs[SGE, 0], timing_rounds)
    networks = _networks(plan, configs, models, histories, times)
    report = _report(output, plan, configs[SGE, 0], networks, models[SGE], times)
    result = DemoResult(output=output, report=report, networks=networks, trained=trained)
    shown.line(f"\n{summary(result)}")
    return result


def _networks(
    plan: Plan,
    configs: Mapping[tuple[str, int], TrainConfig],
    models: Mapping[str, nn.Module],
    histories: Histories,
    times: Times,
) -> tuple[NetworkResult, ...]:
    from sgenet.cost import count

    def run(model: str, seed: int) -> SeedRun:
        config = configs[model, seed]
        return SeedRun(seed, run_of(config), train_command(config), histories[model, seed])

    return tuple(
        NetworkResult(
            model=name,
            title=title,
            cost=count(models[name], (1, 3, plan.image_size, plan.image_size)),
            inference=times.infer[name],
            training=times.train[name],
            runs=tuple(run(name, seed) for seed in range(plan.seeds)),
        )
        for name, title in NETWORKS.items()
    )


def _report(
    output: Path,
    plan: Plan,
    config: TrainConfig,
    networks: tuple[NetworkResult, ...],
    model: nn.Module,
    times: Times,
) -> Path:
    from sgenet.classification.images import open_config_data
    from sgenet.data import normalise
    from sgenet.demo.pictures import data_samples, mask_gallery
    from sgenet.demo.report import ReportContents, write_report

    data = open_config_data(config)
    gallery = mask_gallery(
        model, data.val, lambda batch: normalise(batch, config.mean, config.std), run=str(run_of(config))
    )
    now = datetime.now().astimezone()
    contents = ReportContents(
        networks=networks,
        samples=data_samples(data.train),
        about_data=_ABOUT_SHAPES,
        gallery=gallery,
        question=_question(plan),
        settings=_settings(config, plan),
        versions=_versions(),
        timing=times.method,
        date=f"{now.day} {now:%B %Y}",
        repeat=plan.command(output),
    )
    return write_report(contents, output / "report.html")


def _question(plan: Plan) -> str:
    times = {1: "once", 2: "twice, from two seeds"}.get(
        plan.seeds, f"{number_word(plan.seeds)} times, each time from another seed"
    )
    return (
        "The same small network as it is (plain), with Squeeze-and-Excitation (SE) and with Spatial Group-wise Enhance "
        f"(SGE), each trained {times}, on small generated pictures of things that must be told apart by their parts. "
        "Does attention make it right more often, and what does it cost?"
    )


def _settings(config: TrainConfig, plan: Plan) -> dict[str, str]:
    side = plan.image_size
    return {
        "data": f"{config.data}: {plan.train_size:,} training and {plan.val_size:,} validation images, {side} × {side}",
        "augmentation": f"shift by up to {config.pad} pixels, flip with probability {config.flip:g}",
        "epochs": str(config.epochs),
        "batch size": str(config.batch_size),
        "optimiser": f"{config.optimizer}, momentum {config.momentum:g}, weight decay {config.weight_decay:g}",
        "learning rate": f"{config.lr:g}, {config.schedule}, {config.warmup_epochs:g} epochs of warm-up",
        "seeds": ", ".join(str(seed) for seed in range(plan.seeds)),
    }


def _versions() -> dict[str, str]:
    from sgenet.classification.run_folder import describe_environment

    environment = describe_environment()
    machine = environment["machine"]
    named = {name: version for name, version in environment["versions"].items() if version}
    if machine["gpus"]:
        named["GPU"] = ", ".join(machine["gpus"])
    return {
        **named,
        "processor": f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used",
        "system": str(machine["platform"]),
    }
