"""Pictures and figures made up so that every text and chart of a report can be checked."""

import pytest
import torch
from made_up_studies import analysed, costs, times
from torch import nn

import sgenet
from sgenet.data import ArraySource
from sgenet.study.definition import Paper
from sgenet.study.pictures import data_samples, mask_gallery
from sgenet.study.sections import Sections

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture(scope="session")
def source():
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ArraySource(images, torch.arange(12) % 3, ["cat <b>&", HOSTILE, "owl"])


@pytest.fixture(scope="session")
def attentive():
    torch.manual_seed(0)
    model = sgenet.create_model("sge_resnet8_cifar", num_classes=3)
    for module in model.modules():
        if isinstance(module, sgenet.SpatialGroupEnhance):
            nn.init.normal_(module.weight)
    return model.eval()


@pytest.fixture(scope="session")
def hostile():
    """A study whose names are what a careless page would run."""
    top1 = {"none": [87.9, 89.0, 87.6], 'it\'s "sge"': [88.8, 89.4, 87.1], HOSTILE: [89.1, 88.7]}
    return analysed(
        top1,
        {f"attention={HOSTILE}, seed=2": "<b>no</b> memory & 'more'"},
        levels=tuple(top1),
        title='<img src=x onerror=alert(1)> & "quotes"',
        question="Is <script>alert(2)</script> better?",
        spread=1.2,
        spread_source="<i>stated</i>",
        paper=Paper(
            "a <paper>", "<u>on</u> ImageNet", "top-1 error, %", {"none": "24.0", HOSTILE: "22.<9>"}, "<s>Much</s>."
        ),
    )


@pytest.fixture(scope="session")
def hostile_costs(hostile):
    return costs(hostile.definition)


@pytest.fixture(scope="session")
def sections(source, attentive, hostile):
    return Sections(
        samples=data_samples(source),
        about_data="Noise with <names>.",
        gallery=mask_gallery(attentive, source, lambda batch: batch.float() / 255, run="attention=<sge>-seed=0"),
        times=times(hostile.definition),
    )
