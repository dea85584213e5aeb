"""Cells: everyone is measured sparse, on references that are read once, and whatever ran before."""

import dataclasses
import math

import pytest
import torch

from sau.benchmark import Cell, grid, read, run_cell
from sau.benchmark.cell import condition_of
from sau.checkpoint.sparse import open_model
from sau.mask import check_mask
from sau.unlearn.fading import fading_mask


def test_references_are_read(prepared):
    rows = prepared[1]
    assert len(rows) == 9
    for place in {(row["pruner"], row["sparsity"]) for row in rows}:
        original, *retrained = (row for row in rows if (row["pruner"], row["sparsity"]) == place)
        # Both retrained models are equally far from their own mean, in opposite directions.
        assert retrained[0]["record_distance"] == pytest.approx(retrained[1]["record_distance"])
        assert original["record_distance"] > retrained[0]["record_distance"] > 0
        assert original["decoy_place"] > max(row["decoy_place"] for row in retrained)
    assert all(row["utility"] == 1 for row in rows if row["reference"] == "original")
    assert not list(prepared[0].glob("*.part"))


def test_every_method_is_measured_as_the_sparse_model_it_would_ship(spec, prepared, monkeypatch):
    seen = []

    def watching(lm, sets):
        seen.append(lm)
        if lm.mask is not None:
            check_mask(lm.model, lm.mask)
        return read(lm, sets)

    monkeypatch.setattr("sau.benchmark.cell.read", watching)
    for cell in (cell for cell in grid(spec) if cell.sparsity != "2:4"):
        seen.clear()
        condition_of.cache_clear()
        record = run_cell(spec, "demo", cell, prepared[0])
        assert [run["lr"] for run in record["runs"]] == [*spec.lrs]
        # A method that sees the mask coming unlearns for the two steps that others recover.
        sees_it_coming = cell.order == "unlearn-prune" and cell.redistribution in spec.redistributions
        assert {run["steps"] for run in record["runs"]} == {5 if sees_it_coming else 3}
        nearest = min(record["runs"], key=lambda run: run["distance_to_retrain"])
        assert all(record["informed"][key] == nearest[key] for key in ("lr", "average_distance"))
        chosen = next(run for run in record["runs"] if run["lr"] == record["lr"])
        assert chosen["forget_prob"] == record["forget_prob"]
        assert 0 <= record["decoy_place"] <= 1
        assert math.isfinite(record["utility"])
        base, *shipped = seen  # the base model is read once, for the goal
        assert base.mask is None
        assert len(shipped) == len(spec.lrs)
        assert all((lm.mask is None) == (cell.sparsity == 0) for lm in shipped)


@pytest.mark.parametrize("order", ["prune-unlearn", "unlearn-prune"])
def test_a_cell_is_the_same_whatever_ran_before_it(spec, prepared, order):
    cell = Cell("grad_diff", "importance", "wanda", 0.5, order, 0)
    condition_of.cache_clear()
    first = run_cell(spec, "demo", cell, prepared[0])
    for method in ("none", "unmasked-same-mask", "unmasked-new-mask"):
        run_cell(spec, "demo", dataclasses.replace(cell, redistribution=method), prepared[0])
    again = run_cell(spec, "demo", cell, prepared[0])
    for name in ("lr", "steps", "forget_prob", "retain_prob", "auc", "distance_to_retrain"):
        assert first[name] == again[name]


def test_a_fading_mask_goes_from_the_dense_function_to_the_sparse_one(spec, prepared):
    folder = prepared[0]
    prompt = spec.params.model.prompt
    dense, sparse = (open_model(folder / name, prompt=prompt) for name in ("original", "original-wanda-0.5"))
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        expected = dense.model(ids).logits
        with fading_mask(dense.model, sparse.mask) as fade:
            check_mask(dense.model, sparse.mask)
            torch.testing.assert_close(dense.model(ids).logits, expected, rtol=1e-4, atol=1e-5)
            fade(0.5)
            halfway = dense.model(ids).logits
            fade(0.0)
            faded = dense.model(ids).logits
        torch.testing.assert_close(dense.model(ids).logits, faded, rtol=0, atol=0)
        assert not torch.allclose(faded, expected, atol=1e-3)
        assert 0 < (halfway - expected).norm() < (faded - expected).norm()
