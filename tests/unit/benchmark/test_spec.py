"""Sizes and their grids: loaded strictly, complete, and which cells stay good when a size changes."""

import dataclasses
from pathlib import Path

import pytest

from sau.benchmark import Cell, digest, grid, load_spec, side
from sau.errors import ConfigError

ROOT = Path(__file__).parents[3]
SIZES = sorted((ROOT / "benchmarks").glob("*.yaml"))


@pytest.mark.parametrize("path", SIZES, ids=lambda path: path.stem)
def test_every_size_loads_and_its_cells_are_different(defaults, path):
    spec = load_spec(path, defaults)
    cells = grid(spec)
    assert len({cell.id for cell in cells}) == len(cells)
    assert {side(cell.redistribution) for cell in cells} >= {"sau", "mask-only", "rival"}


def test_a_finished_cell_is_good_as_long_as_what_it_depends_on_stays(spec):
    cell = Cell("grad_diff", "importance", "wanda", 0.5, "prune-unlearn", 0)
    key = digest(spec, "demo", cell)
    grown = {
        "num_seeds": 5,
        "sparsities": (0.5, 0.9),
        "objectives": spec.objectives | {"npo": {"objective": "npo"}},
        "redistributions": spec.redistributions | {"compensated": {"name": "compensated"}},
        "params": spec.params.model_copy(update={"unlearn": spec.params.unlearn.model_copy(update={"lr": 0.5})}),
    }
    assert digest(spec.model_copy(update=grown), "demo", cell) == key
    changed = {
        "lrs": (0.002,),
        "steps": 4,
        "num_retain": 2,
        "objectives": {"grad_diff": {"objective": "grad_diff", "alpha": 2.0}},
        "redistributions": spec.redistributions | {"importance": {"name": "importance", "project": True}},
        "params": spec.params.model_copy(update={"num_threads": 2}),
    }
    others = [digest(spec.model_copy(update={name: value}), "demo", cell) for name, value in changed.items()]
    others += [digest(spec, "TOFU", cell), digest(spec, "demo", dataclasses.replace(cell, seed=1))]
    assert len({key, *others}) == 1 + len(others)


def test_the_grid_is_complete(spec):
    cells = grid(spec)
    # 2 orders x 2 sparsities x (2 masked + 2 rivals), and the dense one.
    assert len(cells) == 17
    assert [cell for cell in cells if cell.sparsity == 0] == [Cell("grad_diff", "dense", "none", 0.0, "none", 0)]
    assert cells[-1].id == "grad_diff/unmasked-new-mask/wanda/2:4/unlearn-prune/0"


@pytest.mark.parametrize("bad", ["lrs: []", "steps: 0", "surprise: 1", "sparsities: ['1:4']", "sparsities: [1.5]"])
def test_a_bad_size_is_refused(defaults, tmp_path, bad):
    key = bad.partition(":")[0]
    lines = [line for line in (ROOT / "benchmarks/tiny.yaml").read_text().splitlines() if not line.startswith(key)]
    (tmp_path / "bad.yaml").write_text("\n".join([*lines, bad]))
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_spec(tmp_path / "bad.yaml", defaults)
