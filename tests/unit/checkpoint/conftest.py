"""A sparse model that is always the same, and versions of it on disk."""

import pytest
import torch

from sau.checkpoint.sparse import PackageParams, save_sparse
from sau.mask import apply_mask
from sau.models.layers import prunable


@pytest.fixture(scope="session")
def masked(tiny):
    """Makes a model with a random mask, the same each time."""

    def make():
        lm = tiny(vocab_size=400)
        torch.manual_seed(1)
        lm.mask = {f"{name}.weight": torch.rand_like(m.weight) > 0.5 for name, m in prunable(lm.model)}
        apply_mask(lm.model, lm.mask)
        return lm

    return make


@pytest.fixture(scope="session")
def versions(masked):
    """Saves versions of a model below a folder, each a small masked step from the one before."""

    def make(folder, package, number=5):
        lm = masked()
        made = [folder / f"v{n}" for n in range(1, number + 1)]
        for path in made:
            apply_mask(lm.model, lm.mask)
            save_sparse(lm, path, structure="unstructured", package=package)
            with torch.no_grad():
                for name, parameter in lm.model.named_parameters():
                    if name in lm.mask:
                        parameter.add_(1e-5 * torch.randn_like(parameter))
        return made

    return make


@pytest.fixture(scope="session")
def line(versions, tmp_path_factory):
    """Five versions in float32; read only."""
    return versions(tmp_path_factory.mktemp("line"), PackageParams())


@pytest.fixture(scope="session")
def same_bytes():
    """Whether two folders hold the same files."""

    def equal(one, other):
        names = {path.name for path in one.iterdir()}
        return names == {path.name for path in other.iterdir()} and all(
            (one / name).read_bytes() == (other / name).read_bytes() for name in names
        )

    return equal
