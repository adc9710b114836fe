"""A demonstration that never ran: figures made up so that every text and picture of the report can be checked."""

import pytest
import torch
from made_up_networks import make_networks
from torch import nn

import sgenet
from sgenet.data import ArraySource
from sgenet.demo.pictures import data_samples, mask_gallery
from sgenet.demo.report import ReportContents


@pytest.fixture(scope="session")
def source():
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ArraySource(images, torch.arange(12) % 3, ["cat <b>&", '"><script>alert(1)</script>', "owl"])


@pytest.fixture(scope="session")
def attentive():
    torch.manual_seed(0)
    model = sgenet.create_model("sge_resnet8_cifar", num_classes=3)
    for module in model.modules():
        if isinstance(module, sgenet.SpatialGroupEnhance):
            nn.init.normal_(module.weight)
    return model.eval()


@pytest.fixture(scope="session")
def contents(source, attentive):
    return ReportContents(
        networks=make_networks([87.9, 89.0, 87.6], [88.8, 89.4, 87.1], [89.1, 88.7, 88.4]),
        samples=data_samples(source),
        about_data="Noise with <names>.",
        gallery=mask_gallery(attentive, source, lambda batch: batch.float() / 255, run="runs/sge_resnet8_cifar-seed0"),
        question="Does it help?",
        settings={"epochs": "4", "hostile": "<img src=x onerror=alert(1)>"},
        versions={"torch": "2.x"},
        timing="Batches of 64 images.",
        date="1 January 2030",
        repeat="sgenet demo --output 'runs & <demo>'",
    )
