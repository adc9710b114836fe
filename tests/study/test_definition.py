"""What a study is: its grid, its settings, and what is refused before any work."""

import itertools
import re

import pytest
import torch
import yaml
from torch import nn

from sgenet import detection
from sgenet.attention import Attention
from sgenet.classification.recipes import list_recipes
from sgenet.classification.training import create_network
from sgenet.errors import ConfigError, UnknownNameError
from sgenet.study import list_studies, load_study
from sgenet.study.definition import Cell, Definition

GRID = {
    "name": "grid",
    "factors": {
        "attention": {"none": {"attention": "none"}, "sge": {"attention": "sge"}},
        "noise": {"0": {"data_options": {"noise": 0.0}}, "2": {"data_options": {"noise": 2.0}}},
    },
    "seeds": 3,
    "recipe": "shapes",
    "settings": {"data": "shapes", "data_options": {"train_size": 64}},
}


def study(**changes):
    values = {**GRID, **changes}
    return Definition.from_dict({key: value for key, value in values.items() if value is not ...})


def test_the_cells_are_all_combinations_of_levels_with_all_seeds():
    grid = study()
    assert len(grid.cells) == 2 * 2 * 3
    assert len({cell.key for cell in grid.cells}) == 12
    assert len({cell.folder for cell in grid.cells}) == 12
    assert grid.cells[0].key == "attention=none, noise=0, seed=0"


def test_a_seed_is_done_before_the_next_and_the_compared_levels_stand_together():
    cells = study().cells
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert [cell.combination.levels["attention"] for cell in cells[:4]] == ["none", "sge", "none", "sge"]
    assert [cell.combination.levels["noise"] for cell in cells[:4]] == ["0", "0", "2", "2"]


def test_cells_of_some_levels_are_a_part_of_the_grid():
    some = study().cells_of({"attention": ["sge"]})
    assert some == tuple(cell for cell in study().cells if cell.combination.levels["attention"] == "sge")
    assert len(study().cells_of({"attention": ["sge"], "noise": ["0", "2"]})) == 6
    assert study().cells_of({}) == study().cells


def test_a_study_of_some_levels_is_a_smaller_study():
    some = study(paper={"source": "x", "figures": {"sge / 0": 1, "sge / 2": 2}}).with_levels({"noise": ["2"]})
    assert {cell.combination.name for cell in some.cells} == {"none / 2", "sge / 2"}
    assert some.comparisons == 1
    assert some.paper.figures == {"sge / 2": "2"}
    assert study().with_levels({"attention": ["sge"]}).combinations == study().combinations  # the baseline stays
    with pytest.raises(ConfigError, match="'attention' has 1 levels; give it at least 2"):
        study().with_levels({"attention": []})


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"attentoin": ["sge"]}, "has no factor 'attentoin'; there is 'attention', 'noise'"),
        ({"attention": ["sgee"]}, "'attention' has no level 'sgee'. Did you mean 'sge'?"),
    ],
)
def test_cells_of_levels_that_are_not_there_are_refused(levels, words):
    with pytest.raises(ConfigError, match=words):
        study().cells_of(levels)


def test_a_cell_has_the_recipe_the_studys_settings_and_its_levels():
    grid = study()
    config = grid.config(grid.cells[-1], "x")
    assert (config.attention, config.seed, config.output) == ("sge", 2, "x/runs/attention=sge-noise=2-seed=2")
    assert config.data_options == {"train_size": 64, "noise": 2.0}
    assert config.model_options == {"stem_stride": 2}  # the recipe's


def test_a_levels_options_of_the_network_leave_the_recipes_in_place():
    positions = {"post": {"model_options": {"attention_position": "post"}}, "pre": {}}
    grid = study(factors={"position": positions}, settings={"data": "shapes", "attention": "se"})
    assert grid.config(grid.cells[0]).model_options == {"stem_stride": 2, "attention_position": "post"}


def test_a_factor_may_be_a_list_of_values_of_a_setting():
    grid = study(factors={"attention_options.groups": [1, 4]}, settings={"data": "shapes", "attention": "sge"})
    assert [grid.config(cell).attention_options for cell in grid.cells[:2]] == [{"groups": 1}, {"groups": 4}]
    assert [level.name for level in grid.factor.levels] == ["1", "4"]


def test_what_is_written_down_is_read_back():
    for name in list_studies():
        definition = load_study(name)
        assert Definition.from_dict(definition.to_dict()) == definition


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factors": {}}, "no factors, so its grid is empty"),
        ({"factors": {"attention": {}}}, "has no levels, so the grid is empty"),
        ({"factors": {"attention": {"sge": {"attention": "sge"}}}}, "has 1 levels; give it at least 2"),
        ({"factors": {"lr": [0.1, 0.1]}}, "has a level twice"),
        ({"factors": {"atention": ["se", "sge"]}}, "no setting of `sgenet train`. Did you mean 'attention'?"),
        ({"factors": {"a": {"x": {"epoch": 1}, "y": {}}}}, "varies 'epoch'.*Did you mean 'epochs'?"),
        ({"factors": {"a": {"x": 3, "y": 4}}}, "the level 'x' of 'a' must hold settings"),
        ({"factors": ...}, "has no 'factors'"),
        ({"seeds": 0}, "seeds=0 must be 1 or more"),
        ({"seeds": "three"}, "seeds='three' must be a whole number"),
        ({"compare": "attension"}, "compare names the factor 'attension'"),
        ({"baseline": "se"}, "baseline='se' is no level of 'attention'; there are none, sge"),
        ({"trend": "attention"}, "trend='attention' must be a factor other than 'attention'"),
        ({"spread": 0.0}, "spread=0.0 must be above 0"),
        ({"sections": ["mask"]}, "sections of classifiers may be samples, masks, times, not mask"),
        ({"settings": {"epoch": 3}}, "settings: there is no setting 'epoch'. Did you mean 'epochs'?"),
        ({"settings": {"data": "shapes", "epochs": 0}}, "epochs=0 must be 1 or more"),
        ({"recipe": "shape"}, "there is no recipe and no file 'shape'"),
        ({"name": "a/b"}, "name may have letters, digits"),
        ({"factors": {"seed": {"x": {"lr": 0.1}, "y": {"lr": 0.2}}}}, "may not be called 'seed'"),
        (
            {"factors": {"a": {"x / y": {}, "x": {}}, "b": {"z": {}, "y / z": {}}}},
            "two combinations of levels would be called 'x / y / z'",
        ),
        ({"question": "?", "factor": {}}, "there is no 'factor'. Did you mean 'factors'?"),
        ({"paper": {"figures": {}}}, "must have a source"),
        ({"paper": {"source": "x", "figures": [1, 2]}}, "figures=\\[1, 2\\] of the paper must be a mapping"),
        ({"sections": [1]}, "sections=\\[1\\] must be a list of names"),
        ({"settings": {"data": "shapes", "seed": 3}}, "settings: seed is what the study decides"),
        ({"settings": {"data": "shapes", "model": {"name": "x"}}}, "model=.* must be text"),
        ({"factors": {"a": {"x": {"output": "runs/x"}, "y": {}}}}, "the factor 'a' varies output, which the study"),
        ({"factors": {"lr": [0.1, 0.2], "pad": {"1": {"pad": 1}, "1.0": {"pad": 2}}}, "trend": "pad"}, "different num"),
        (
            {"factors": {"a": {"x": {"lr": 0.1}, "y": {"lr": 0.2}}, "b": {"u": {"lr": 0.1}, "v": {}}}},
            "two factors vary lr",
        ),
    ],
)
def test_what_cannot_be_a_study_is_refused_in_one_sentence(changes, words):
    with pytest.raises(ConfigError, match=words):
        study(**changes)


def test_another_recipe_and_other_data_take_the_place_of_its_own():
    other = study().with_settings("cifar", 5, data="photos/cifar10", model="resnet20_cifar")
    config = other.config(other.cells[0])
    assert (config.data, config.model, config.lr, other.seeds) == ("photos/cifar10", "resnet20_cifar", 0.2, 5)
    assert config.data_options == {"noise": 0.0}  # a level's; the study's were for the data before


def test_options_of_the_data_stay_while_the_data_stay():
    photos = study(factors={"lr": [0.1, 0.2]}, settings={"data": "photos", "data_options": {"train_size": 64}})
    for same in (photos.with_settings(epochs=3), photos.with_settings(data="photos"), photos.with_settings(None, 9)):
        assert same.config(same.cells[0]).data_options == {"train_size": 64}
    assert photos.with_settings(data="others").config(photos.cells[0]).data_options == {}


def test_what_a_factor_varies_is_not_set_beside_it():
    with pytest.raises(ConfigError, match="attention is what the factor 'attention'"):
        study().with_settings(attention="se")
    with pytest.raises(ConfigError, match="seed is what the study decides"):
        study().with_settings(seed=3)


def test_the_grid_of_a_tiny_study_is_the_same_but_for_its_seeds():
    tiny = study(seeds=5).tiny()
    assert tiny.wiring
    assert tiny.combinations == study().combinations
    assert tiny.seeds == 2
    assert tiny.config(tiny.cells[0]).epochs == 2


def test_a_tiny_study_of_lengths_trains_briefly_for_all_of_them():
    tiny = study(factors={"epochs": [10, 40, 20]}).tiny()
    assert [tiny.config(cell).epochs for cell in tiny.cells[:3]] == [2, 4, 3]
    assert [level.name for level in tiny.factor.levels] == ["10", "40", "20"]


def test_seeds_and_places_are_no_part_of_what_two_runs_must_share():
    here = study().with_settings(None, 9, data="a/photos")
    there = study().with_settings(None, 2, data="b/c/photos", workers=3)
    assert here.fingerprint() == there.fingerprint()
    assert here.fingerprint() != here.with_settings(lr=0.05).fingerprint()


# ----------------------------------------------------------------------------------------- those of the package


PRESETS = {
    *("sge-groups", "sge-normalisation", "sge-init", "sge-position", "attention-comparison"),
    *("depth", "hosts", "mobile", "cifar", "se-reduction", "se-squeeze", "se-excitation", "se-stages"),
    *("se-integration", "se-3x3", "se-no-squeeze", "background-noise", "detectors", "demo"),
}


def test_every_classification_ablation_of_both_papers_is_there():
    assert set(list_studies()) == PRESETS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_study_of_the_package_says_what_it_asks_and_with_what_the_paper_answers(name):
    definition = load_study(name)
    assert definition.title.endswith("?")
    assert len(definition.question) > 40
    assert definition.recipe in (detection.list_recipes() if definition.trains == "detectors" else list_recipes())
    names = {combination.name for combination in definition.combinations}
    if definition.paper is not None:
        assert set(definition.paper.figures) <= names
    if definition.needs is None and name != "demo":
        assert definition.seeds >= 5
        assert definition.config(definition.cells[0]).data == "shapes"


def network_of(config):
    """What makes a network: for each part the shapes of its parameters, and for attention where it stands and how."""
    torch.manual_seed(0)
    model = create_network(config, 10).eval()
    attention = {id(place) for place in model.modules() if isinstance(place, Attention)}
    parts, made, norms, kept = [], {}, [], []

    def hook(module, inputs, output):
        kept.append((inputs, output))  # so that no two tensors share an id
        if id(module) in attention:
            start = [round(p.mean().item(), 1) for p in module.parameters()]
            parts.append((made.get(id(inputs[0]), "a sum"), tuple(inputs[0].shape), repr(module), tuple(start)))
        elif not any(True for _ in module.children()):
            norms.append(isinstance(module, nn.BatchNorm2d))
            made[id(output)] = (type(module).__name__, sum(norms))

    for module in model.modules():
        module.register_forward_hook(hook)
    model(torch.zeros(1, 3, 16, 16))
    return tuple(p.shape for p in model.parameters()), tuple(parts)


@pytest.mark.parametrize("name", sorted(PRESETS - {"hosts", "mobile", "cifar", "detectors"}))
def test_no_two_levels_of_a_study_of_the_package_are_one_network(name):
    definition = load_study(name)
    found = {}
    for combination in definition.combinations:
        config = definition.config(Cell(combination, 0))
        differs = (config.model, str(config.attention), str(config.data_options))
        found.setdefault(differs, {})[combination.name] = config
    same = []
    for configs in found.values():
        if len(configs) > 1:
            networks = {level: network_of(config) for level, config in configs.items()}
            same += [pair for pair in itertools.combinations(networks, 2) if networks[pair[0]] == networks[pair[1]]]
    assert same == ([("16", "32")] if name == "se-reduction" else [])  # which its text says


def test_the_figures_of_senets_tables_stand_in_its_studies():
    # arXiv 1709.01507v4, tables 10 to 16: top-1 errors, percent
    tables = {
        "se-reduction": {"2": 22.29, "4": 22.25, "8": 22.26, "16": 22.28, "32": 22.72, "none": 23.30},
        "se-squeeze": {"max": 22.57, "avg": 22.28},
        "se-excitation": {"relu": 23.47, "tanh": 23.00, "sigmoid": 22.28},
        "se-stages": {"none": 23.30, "first": 23.03, "second": 23.04, "third": 22.68, "all": 22.28},
        "se-integration": {"residual": 22.28, "pre": 22.23, "post": 22.78, "identity": 22.20, "none": 23.30},
        "se-3x3": {"residual": 22.28, "inner": 22.48, "none": 23.30},
        "se-no-squeeze": {"none": 23.30, "no squeeze": 22.93, "avg": 22.28},
    }
    for name, figures in tables.items():
        paper = load_study(name).paper
        assert {level: float(text.partition(" / ")[0]) for level, text in paper.figures.items()} == figures


def test_a_study_of_ones_own_is_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**GRID, "name": "mine"}))
    assert load_study(str(file)).name == "mine"
    file.write_text("settings: {data: shapes, epochs: 3, epochs: 4}")
    with pytest.raises(ConfigError, match="'epochs' stands twice in what begins in line 1"):
        load_study(str(file))
    file.write_text("factors: [")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_study(str(file))
    with pytest.raises(
        UnknownNameError, match=re.escape("no study and no file 'sge-group'. Did you mean 'sge-groups'")
    ):
        load_study("sge-group")
