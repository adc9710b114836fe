"""What is true of the package as a whole: its public names, what it imports and when, and what a wheel holds."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import sgenet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sgenet"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = metadata.packages_distributions()

# A new room gets its line here. An import may run to a lower floor, or to another room of the same one.
FLOORS = {
    "errors": -1,
    "extras": -1,
    "importing": -1,
    "named_files": 0,
    "ops": 0,
    "attention": 1,
    "surgery": 2,
    "data": 3,
    "models": 3,
    "training": 3,
    "writing": 0,
    "cost": 3,
    "timing": 3,
    "inference": 3,
    "timm": 4,
    "classification": 4,
    "detection": 4,
    "bench": 4,
    "study": 4,
    "doctor": 5,
    "cli": 5,
    "sgenet": 5,
}

# Nothing of ours imports them: torch.utils.tensorboard writes event files, torch.onnx files of its own, and SQLAlchemy
# speaks to PostgreSQL by psycopg.
USED_BY_OTHERS = {"tensorboard", "onnx", "onnxscript", "psycopg"}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", r).group().lower() for r in requirements}


def declared() -> set[str]:
    extras = [r for name, group in EXTRAS.items() if name != "all" for r in group]
    return requirement_names(PROJECT["dependencies"] + extras) - {"sgenet"}  # one extra brings another


def installed_as(import_name: str) -> set[str]:
    """Names of the distributions that an import comes from: {"pyyaml"} for "yaml"."""
    return {re.sub(r"[-_.]+", "-", d).lower() for d in DISTRIBUTIONS.get(import_name, [f"no {import_name}"])}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(file: Path) -> set[str]:
    """Full names of what a file imports, at its top or inside a function: `sgenet.errors.ConfigError`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_modules(file: Path) -> set[str]:
    """Our own modules among them."""
    ours = {name for name in imports(file) if name.split(".")[0] == "sgenet"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in ours}


def room(module: str) -> str:
    """`sgenet.data.folder` is in `data`; the package itself, which hands out the names of all rooms, is in `sgenet`."""
    return module.split(".")[1] if "." in module else module


def test_version_is_the_installed_ones():
    assert sgenet.__version__ == metadata.version("sgenet")


def test_every_public_name_resolves_and_is_listed():
    for name in sgenet.__all__:
        assert getattr(sgenet, name) is not None
    assert set(sgenet.__all__) <= set(dir(sgenet))
    assert sgenet.cost.count is sgenet.cost.__dict__["count"]  # rooms resolve without an import of their own
    with pytest.raises(AttributeError, match="no attribute 'SpatialGroupEnhanse'"):
        _ = sgenet.SpatialGroupEnhanse


@pytest.mark.parametrize("name", ["errors", "detection", "doctor"])
def test_rooms_are_reached_without_an_import_of_their_own(name):
    done = run_python(f"import sgenet; print('{name}' in dir(sgenet), sgenet.{name}.__name__)")
    assert done.stdout.split() == ["True", f"sgenet.{name}"], done.stderr


def test_a_type_checker_sees_the_names_that_exist_at_run_time():
    seen = {name.rpartition(".")[2] for name in imports(MODULES["sgenet"]) if name.startswith("sgenet.")}
    assert seen - {"names_on_use"} | {"__version__"} == set(sgenet.__all__)  # that one only hands them out


@pytest.mark.parametrize("module", ["sgenet", "sgenet.cli", "sgenet.classification.config"])
def test_light_imports_leave_the_heavy_packages_alone(module):
    heavy = ["torch", "torchvision", "numpy", "pytorch_lightning", "timm", "matplotlib", "rich"]
    done = run_python(f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_attention_modules_need_torch_alone():
    others = sorted(name for name in DISTRIBUTIONS if installed_as(name) & (declared() - {"torch"}))
    done = run_python(
        f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {others}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import warnings
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
import torch, sgenet
x = torch.randn(2, 64, 5, 7)
print(sgenet.SpatialGroupEnhance(64, groups=8)(x).shape == x.shape)
print(*[sgenet.create_attention(name, 64)(x).shape == x.shape for name in sgenet.list_attention()])
"""
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"True"}
    assert "numpy" in others
    assert "torchvision" in others


@pytest.mark.parametrize("module", [name for name in MODULES if name != "sgenet"])
def test_imports_run_downward(module):
    here = FLOORS[room(module)]
    for imported in imported_modules(MODULES[module]):
        assert FLOORS[room(imported)] <= here, f"{module} (floor {here}) imports {imported} from a higher floor"


def test_imports_make_no_circle():
    graph = {name: imported_modules(file) for name, file in MODULES.items() if name != "sgenet"}
    rooms: dict[str, set[str]] = {}
    for name, imported in graph.items():
        rooms.setdefault(room(name), set()).update(room(i) for i in imported if room(i) != room(name))
    for imports_of in (graph, rooms):
        graphlib.TopologicalSorter(imports_of).prepare()  # raises CycleError, which names the circle


BROUGHT_BY_TORCH = "triton"  # where there is one for the platform, in the version that fits


def test_every_import_is_declared_and_every_dependency_imported():
    used = {name.split(".")[0] for file in MODULES.values() for name in imports(file)}
    third_party = used - sys.stdlib_module_names - {"sgenet", BROUGHT_BY_TORCH}
    needed = {name: installed_as(name) for name in third_party}
    assert [name for name, found in needed.items() if not found & declared()] == [], "add them to pyproject.toml"
    assert declared() - set().union(*needed.values()) == USED_BY_OTHERS, "take it out of pyproject.toml"


def test_extras_have_the_promised_names_and_all_holds_each():
    assert set(EXTRAS) == {"train", "detect", "study", "explain", "app", "export", "all"}
    (everything,) = EXTRAS["all"]
    assert set(re.search(r"\[(.*)\]", everything).group(1).split(",")) == set(EXTRAS) - {"all"}


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    expected = {
        file.relative_to(PACKAGE.parent).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed >= expected
    assert "sgenet/py.typed" in packed
    assert "sgenet/study/template.html" in packed
    assert any(re.fullmatch(r"sgenet/study/presets/.*\.yaml", name) for name in packed)
    assert any(re.fullmatch(r"sgenet/classification/recipes/.*\.yaml", name) for name in packed)
    assert any(name.endswith("licenses/LICENSE") for name in packed)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sgenet.__version__
    assert citation["license"] == PROJECT["license"]
