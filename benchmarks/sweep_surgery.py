"""Put SGE into every convolutional network of torchvision and timm, and see what it does to one of each family.

    python benchmarks/sweep_surgery.py

Two tables, printed in short and written to `results/`:

- `surgery-places.csv`: `sgenet.add_attention(network, "sge")` on every classification network of torchvision that is
  built of convolutions, and on every entry of timm's convolutional model files (`TIMM_FILES`). The networks are built
  without memory, on the meta device. Where a network has attention everywhere already, ours takes its place.
- `surgery-checks.csv`: for the smallest network of every family, with real weights, all random, and norms as after
  training (branches that start at zero would hide an error): the original keys and tensors stay; the output is kept, in
  float64 and float32 in eval mode, and in train mode in proportion to what the network itself makes of an input changed
  by 1e-7; every weight of the attention gets a gradient; taking the attention off gives the original back.

The script ends with status 1 where a check fails or too few networks get places.
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import io
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from timm.models import model_entrypoint
from torch import Tensor, nn

import sgenet
from sgenet.errors import SgenetError
from sgenet.surgery import attention_report, find_sites
from sgenet.surgery.recording import example_input
from sgenet.writing import write_whole

TIMM_FILES = (
    "byoanet", "byobnet", "convmixer", "convnext", "cspnet", "cspnext", "densenet", "dla", "dpn", "edgenext",
    "efficientformer", "efficientnet", "fasternet", "fastvit", "ghostnet", "hardcorenas", "hgnet", "hrnet",
    "inception_next", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2", "mambaout", "mobilenetv3",
    "mobilenetv5", "nasnet", "nfnet", "pnasnet", "rdnet", "regnet", "repghost", "repvit", "res2net", "resnest",
    "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet", "starnet", "tresnet", "vgg", "vovnet", "xception",
    "xception_aligned",
)  # fmt: skip
NOT_CONVOLUTIONAL = ("vit", "swin", "maxvit")  # of torchvision

LEAST_WITH_PLACES = 0.98
LEAST_AT_SUMS = 0.90


class Network(NamedTuple):
    """A network of a zoo."""

    family: str
    name: str
    build: Callable[[], nn.Module]


def networks() -> Iterator[Network]:
    """Every convolutional network, timm's by file."""
    for name in torchvision.models.list_models(torchvision.models):
        if not name.startswith(NOT_CONVOLUTIONAL):
            family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
            yield Network(
                f"torchvision {family}", name, functools.partial(torchvision.models.get_model, name, weights=None)
            )
    for name in timm.list_models():
        family = model_entrypoint(name).__module__.rpartition(".")[2]
        if family in TIMM_FILES:
            yield Network(f"timm {family}", name, functools.partial(timm.create_model, name))


def place(network: Network) -> dict[str, Any]:
    """One row of the first table."""
    started = time.perf_counter()
    row = {"family": network.family, "network": network.name}
    empty: dict[str, Any] = dict.fromkeys(("parameters", "places", "kind", "attached", "replaced", "passed_over"), "")
    try:
        model = without_memory(network)
        parameters = sum(p.numel() for p in model.parameters())
        kinds = Counter(site.kind for site in find_sites(model).found)
        report = attention_report(with_attention(model))
        assert report is not None  # add_attention has not raised
        ways = Counter(placed.attach for placed in report.placed)
        found = {
            "parameters": parameters,
            "places": len(report.placed),
            "kind": "+".join(kinds),
            "attached": " ".join(f"{way}:{count}" for way, count in ways.items()),
            "replaced": ways["replace"],
            "passed_over": "; ".join(f"{name}: {why}" for name, why in report.passed_over),
        }
        return row | found | {"error": "", "seconds": round(time.perf_counter() - started, 2)}
    except Exception as error:  # the table is to name what fails, and why
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return row | empty | {"error": reason, "seconds": round(time.perf_counter() - started, 2)}


def without_memory(network: Network) -> nn.Module:
    """The network on the meta device, or with its weights where its construction needs numbers."""
    try:
        with torch.device("meta"):
            return network.build()
    except NotImplementedError:
        return network.build()


def with_attention(model: nn.Module) -> nn.Module:
    """The network with SGE, in place of other attention where that is everywhere."""
    sites = find_sites(model)
    everywhere = all(site.taken for site in sites.found)
    return sgenet.add_attention(model, "sge", existing="replace" if everywhere and sites.taken else "keep")


def check(network: Network) -> dict[str, Any]:
    """One row of the second table."""
    torch.manual_seed(0)
    row: dict[str, Any] = {"family": network.family, "network": network.name}
    try:
        model, images = look_trained(network.build())
        row["input"] = "x".join(map(str, images.shape))
        return row | checked(model, images)
    except Exception as error:  # as above
        return row | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def checked(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """The figures of the second table, and what failed in words."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    twin = with_attention(copy.deepcopy(model))
    report = attention_report(twin)
    assert report is not None
    replaced = any(placed.attach == "replace" for placed in report.placed)
    found: dict[str, Any] = {"places": len(report.placed), "output_kept": "replaced" if replaced else "yes"}
    failed = []

    keys = twin.state_dict()
    lost = [k for k, v in state.items() if k not in keys or not torch.equal(keys[k], v)]
    if lost and not replaced:
        failed.append(f"{len(lost)} keys lost")
    found["float64"] = found["float32"] = found["train"] = ""
    if not replaced:
        found["float64"] = change(model, twin, images.double(), torch.float64)
        found["float32"] = change(model, twin, images, torch.float32)
        found["train"] = change_in_training(model, twin, images)
        limits = {"float64": 1e-10, "float32": 1e-6, "train": 10.0}
        failed += [f"{name} {found[name]:.1e}" for name, limit in limits.items() if not found[name] <= limit]
    without = weights_without_gradient(twin, images)
    if without:
        failed.append(f"no gradient in {without[0]} and {len(without) - 1} more")
    original = sgenet.remove_attention(twin).state_dict()
    if original.keys() != state.keys() or not all(torch.equal(original[k], v) for k, v in state.items()):
        failed.append("not the original after removal")
    return found | {"failed": "; ".join(failed)}


def change(model: nn.Module, twin: nn.Module, images: Tensor, dtype: torch.dtype) -> float:
    """Largest change of the output in eval mode, relative to the largest output."""
    model, twin = copy.deepcopy(model).to(dtype).eval(), copy.deepcopy(twin).to(dtype).eval()
    with torch.no_grad():
        before, after = first_tensor(model(images)), first_tensor(twin(images))
    return ((after - before).abs().max() / before.abs().max()).item()


def change_in_training(model: nn.Module, twin: nn.Module, images: Tensor) -> float:
    """Change of the output in train mode, as a multiple of the network's own response to an input changed by 1e-7."""
    before = output_in_training(model, images)
    response = (output_in_training(model, images * (1 + 1e-7)) - before).abs().max()
    after = output_in_training(twin, images)
    least = torch.finfo(before.dtype).eps * before.abs().max()
    return ((after - before).abs().max() / torch.maximum(response, least)).item()


def output_in_training(model: nn.Module, images: Tensor) -> Tensor:
    """The output in train mode, of a copy: batch norms change."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(0)  # of dropout and drop path
    with torch.no_grad():
        return first_tensor(model(images))


def weights_without_gradient(model: nn.Module, images: Tensor) -> list[str]:
    """Names of weights of the attention that a training step would leave as they are."""
    model = copy.deepcopy(model).eval()
    output = first_tensor(model(images))
    (output * torch.randn_like(output)).sum().backward()  # type: ignore[no-untyped-call]
    names = tuple(f"{placed.module}." for placed in attention_report(model).placed)  # type: ignore[union-attr]
    modules = {name: model.get_submodule(name.rstrip(".")) for name in names}
    return [
        prefix + name
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not (parameter.grad != 0).any()
    ]


def look_trained(model: nn.Module) -> tuple[nn.Module, Tensor]:
    """The network with random affine weights and with statistics near those of its maps; and an input for it."""
    generator = torch.Generator().manual_seed(0)

    def random(tensor: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(tensor.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() <= 1 and not name.endswith("bias"):
                parameter.copy_(random(parameter, 0.5, 1.5))
            elif not (parameter != 0).any():
                parameter.copy_(random(parameter, -0.1, 0.1))
        images = example(model)
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # after one pass the statistics are those of the maps
        model.train()(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            mean, variance = norm.running_mean, norm.running_var
            if mean is not None and variance is not None:
                mean += variance.sqrt() * random(mean, -0.1, 0.1)
                variance *= random(variance, 0.8, 1.2)  # more would add up over the layers
    return model.eval(), images


def example(model: nn.Module) -> Tensor:
    """A small batch of noise, of the smallest size that the network takes, in train mode too.

    Maps must be wider than 2: SGE learns nothing from one position, nor from what a 3x3 mean leaves of 2x2.
    """
    usual = example_input(model)
    generator = torch.Generator().manual_seed(1)
    for side in (64, 96, 128, 160, 224, 299):
        images = torch.randn((2, *usual.shape[1:-2], side, side), generator=generator)
        try:
            output_in_training(model, images)
            sites = find_sites(model, example=images)
        except Exception:  # too small for it
            continue
        if min(min(site.size) for site in (*sites.found, *sites.taken)) > 2:
            return images
    return torch.randn(usual.shape, generator=generator)


def first_tensor(output: Any) -> Tensor:  # noqa: ANN401  # whatever a network returns
    """The output, or the first of several."""
    return output if isinstance(output, Tensor) else next(iter(output))


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Write a table to `results/`, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS[name]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(Path(__file__).parent / "results" / f"{name}.csv", text.getvalue())


def read(name: str) -> list[dict[str, Any]]:
    """A table of `results/`."""
    with (Path(__file__).parent / "results" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


COLUMNS = {
    "surgery-places": (
        "family", "network", "parameters", "places", "kind", "attached", "replaced", "passed_over", "error", "seconds",
    ),
    "surgery-checks": (
        "family", "network", "input", "places", "output_kept", "float64", "float32", "train", "failed",
    ),
}  # fmt: skip


def progress(rows: Iterable[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
    """The rows, with a line that tells how far they are."""
    started = time.perf_counter()
    for number, row in enumerate(rows, 1):
        left = (time.perf_counter() - started) / number * (total - number)
        print(f"\r{number}/{total}  {left:5.0f} s left  {row['network'][:40]:40}", end="", file=sys.stderr, flush=True)
        yield row
    print(file=sys.stderr)


def report_places(rows: list[dict[str, Any]]) -> bool:
    """Print the first table in short; whether enough networks got places."""
    good = True
    for zoo in ("torchvision", "timm"):
        own = [row for row in rows if row["family"].startswith(zoo)]
        if not own:
            continue
        placed = [row for row in own if row["places"]]
        sums = [row for row in placed if row["kind"] == "sum"]
        print(
            f"{zoo}: {len(own)} networks, {len(placed)} with places ({100 * len(placed) / len(own):.1f}%), "
            f"{len(sums)} of them at residual sums ({100 * len(sums) / len(own):.1f}%)"
        )
        for row in own:
            if row["error"]:
                print(f"  {row['network']}: {row['error']}")
        if zoo == "timm":
            good = len(placed) >= LEAST_WITH_PLACES * len(own) and len(sums) >= LEAST_AT_SUMS * len(own)
    return good


def report_checks(rows: list[dict[str, Any]]) -> bool:
    """Print the second table; whether everything held."""
    print("\n| family | network | places | float64 | float32 | train (x own response) | failed |")
    print("|---|---|--:|--:|--:|--:|---|")
    for row in rows:
        figures = [
            f"{row[name]:.1e}" if isinstance(row.get(name), float) else "-" for name in ("float64", "float32", "train")
        ]
        cells = [row["family"], row["network"], str(row.get("places", "")), *figures, row["failed"]]
        print("| " + " | ".join(cells) + " |")
    failed = [row for row in rows if row["failed"]]
    print(f"{len(rows)} families, {len(failed)} with failures")
    return not failed


def main() -> int:
    """Write and print both tables."""
    parser = argparse.ArgumentParser(description="Put SGE into every convolutional network of torchvision and timm.")
    parser.add_argument("--only", default="", help="only networks whose name or family contains this; writes no files")
    parser.add_argument("--checks-only", action="store_true", help="take the first table as it is in results/")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    chosen = [n for n in networks() if options.only in f"{n.family} {n.name}"]
    if not chosen:
        raise SgenetError(f"no network is called '{options.only}'")
    places = read("surgery-places") if options.checks_only else list(progress(map(place, chosen), len(chosen)))
    # Where other attention is replaced, there is no output to keep: such a network stands for its family only where all
    # of them are like it.
    order = {
        (row["family"], row["network"]): (int(row["replaced"] or 0) > 0, int(row["parameters"] or sys.maxsize))
        for row in places
    }
    smallest: dict[str, Network] = {}
    for network in sorted(chosen, key=lambda n: order[n.family, n.name]):
        smallest.setdefault(network.family, network)
    families = [smallest[family] for family in sorted(smallest)]
    checks = list(progress(map(check, families), len(families)))
    if not options.only:
        write("surgery-places", places)
        write("surgery-checks", checks)
    good = [report_places(places), report_checks(checks)]
    return 0 if all(good) or options.only else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SgenetError as error:
        sys.exit(f"error: {error}")
