"""Pictures and figures made up so that every text and chart of a report can be checked; a database server."""

import os
import random
import shutil
import subprocess
from pathlib import Path

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


def postgres_programs():
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb = shutil.which("initdb") or next((str(f / "initdb") for f in folders if (f / "initdb").is_file()), None)
    return None if initdb is None else Path(initdb).parent


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A PostgreSQL server of our own."""
    programs = postgres_programs()
    if programs is None:
        if os.environ.get("SGENET_REQUIRE_POSTGRES"):
            pytest.fail("SGENET_REQUIRE_POSTGRES is set, but there is no PostgreSQL")
        pytest.skip("needs PostgreSQL's initdb and postgres")
    folder = tmp_path_factory.mktemp("postgres")
    as_user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        for parent in folder.parents:
            if parent == Path(os.environ.get("TMPDIR", "/tmp")):
                break
            parent.chmod(0o755)
        as_user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    quiet = {"check": True, "capture_output": True, "cwd": folder}
    subprocess.run([*as_user, programs / "initdb", "-D", data, "-U", "study", "--auth=trust", "--no-sync"], **quiet)
    port = str(random.SystemRandom().randint(20000, 60000))
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    control = [*as_user, programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], check=True, stdout=subprocess.DEVNULL)
    yield f"postgresql://study@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=False, stdout=subprocess.DEVNULL)
