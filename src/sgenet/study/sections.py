"""What a report shows besides its figures: samples of the data, masks of SGE, and measured times."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sgenet.errors import SgenetError
from sgenet.study.analysis import Analysis
from sgenet.study.definition import Cell

if TYPE_CHECKING:
    from sgenet.classification.config import TrainConfig
    from sgenet.study.pictures import Gallery, Sample
    from sgenet.study.storage import Storage
    from sgenet.timing import Ratio

__all__ = ["Sections", "Times", "gather"]

_IMAGES = 64
_ROUNDS = 30
_MODES: tuple[Literal["infer", "train"], ...] = ("infer", "train")
_ABOUT_SHAPES = (
    "Drawn faces; the class of each is what its parts are: pointed or round ears, open or closed eyes, a smiling or a "
    "yawning mouth. Colour, proportions, place and size say nothing about it; loose parts of other faces lie around."
)


@dataclasses.dataclass(frozen=True)
class Times:
    """How long networks take, as multiples of the baseline's time.

    Attributes:
        infer: Forward pass, by the name of a level.
        train: Forward and backward pass.
        method: How they were measured, in words.
    """

    infer: Mapping[str, Ratio]
    train: Mapping[str, Ratio]
    method: str


@dataclasses.dataclass(frozen=True)
class Sections:
    """What a report has besides figures; each may be missing.

    Attributes:
        samples: Images of every class.
        about_data: What the images show.
        gallery: Masks over validation images.
        times: Measured.
    """

    samples: tuple[Sample, ...] = ()
    about_data: str = ""
    gallery: Gallery | None = None
    times: Times | None = None


def gather(analysis: Analysis, storage: Storage, output: Path, machine: Mapping[str, Any]) -> Sections:
    """What the study asks for and this machine has: its images, and the runs that were trained here.

    A section is left out where its images or runs are not here, or cannot be used.

    Args:
        analysis: Of the study.
        storage: Keeps times once they are measured.
        output: The study's folder.
        machine: Settings that belong to this machine.

    Returns:
        The sections.
    """
    asked = analysis.definition.sections
    if not asked or not analysis.finished:
        return Sections()
    definition = analysis.definition
    config = definition.config(definition.cells[0], **machine)
    found = Sections()
    with suppress(SgenetError):
        if "samples" in asked:
            about = _ABOUT_SHAPES if config.data == "shapes" else ""
            found = dataclasses.replace(found, samples=_samples(config), about_data=about)
    with suppress(SgenetError):
        if "masks" in asked:
            found = dataclasses.replace(found, gallery=_gallery(analysis, output, machine))
    with suppress(SgenetError):
        if "times" in asked:
            found = dataclasses.replace(found, times=_times(analysis, storage, output, config))
    return found


def _samples(config: TrainConfig) -> tuple[Sample, ...]:
    from sgenet.classification.images import open_config_data
    from sgenet.study.pictures import data_samples

    return data_samples(open_config_data(config).train)


def _runs(analysis: Analysis, output: Path) -> dict[str, Path]:
    """By the name of a level, the run of seed 0 under the first circumstances, where it is finished and here."""
    found = {}
    for row in analysis.blocks[0].rows:
        run = output / "runs" / Cell(row.combination, 0).folder
        if 0 in row.results and (run / "checkpoints" / "index.json").is_file():
            found[row.combination.levels[analysis.definition.compare]] = run
    return found


def _gallery(analysis: Analysis, output: Path, machine: Mapping[str, Any]) -> Gallery | None:
    """Masks of the first network that has SGE."""
    from sgenet.attention import SpatialGroupEnhance
    from sgenet.classification.images import open_config_data
    from sgenet.data import normalise
    from sgenet.models import load
    from sgenet.study.pictures import mask_gallery

    for row in analysis.blocks[0].rows:
        run = _runs(analysis, output).get(row.combination.levels[analysis.definition.compare])
        if run is None:
            continue
        model = load(run)
        if any(isinstance(module, SpatialGroupEnhance) for module in model.modules()):
            config = analysis.definition.config(Cell(row.combination, 0), **machine)
            to_input = partial(normalise, mean=config.mean, std=config.std)
            return mask_gallery(model, open_config_data(config).val, to_input, run=run.name)
    return None


def _times(analysis: Analysis, storage: Storage, output: Path, config: TrainConfig) -> Times | None:
    """The times that the storage has, measured first where it has none and all networks are here."""
    from sgenet.timing import Ratio

    known = storage.times()
    if known is None:
        runs = _runs(analysis, output)
        if len(runs) < len(analysis.blocks[0].rows):
            return None
        known = _measured(runs, analysis.definition.baseline, config)
        storage.note_times(known)
    infer, train = ({name: Ratio(**ratio) for name, ratio in known[mode].items()} for mode in _MODES)
    return Times(infer, train, known["method"])


def _measured(runs: Mapping[str, Path], baseline: str, config: TrainConfig) -> dict[str, Any]:
    import torch

    from sgenet.models import load
    from sgenet.timing import latency_ratio

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    x = torch.randn(_IMAGES, 3, config.image_size, config.image_size, device=device).to(memory_format=layout)
    models = {name: copy.deepcopy(load(run)).to(device).to(memory_format=layout) for name, run in runs.items()}
    found: dict[str, Any] = {}
    seconds = {}
    for mode in _MODES:
        ratios = latency_ratio(models, x, baseline=baseline, pairs=_ROUNDS, mode=mode)
        found[mode] = {name: dataclasses.asdict(ratio) for name, ratio in ratios.items()}
        seconds[mode] = 1e3 * ratios[baseline].seconds
    found["method"] = (
        f"Batches of {_IMAGES} images in float32{', channels last,' if config.channels_last else ''} on "
        f"{'the CPU' if device.type == 'cpu' else 'a GPU'}; each of {_ROUNDS} rounds times every network, in rotating "
        f"order, all in one process. {baseline} took {seconds['infer']:.3g} ms forward, {seconds['train']:.3g} ms "
        "forward and backward."
    )
    return found
