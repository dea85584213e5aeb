"""Masks: packed, digested, and refused where they are not the structure that was asked for."""

import pytest
import torch

from sau.errors import SparsityError
from sau.mask import check_structure, mask_digest, pack, parse_structure, sparsity, unpack


def test_pack_and_unpack_are_inverse_for_any_shape():
    torch.manual_seed(0)
    for shape in [(1, 1), (3, 5), (7, 16), (2, 9)]:
        kept = torch.rand(shape) > 0.3
        assert torch.equal(unpack(pack(kept), shape), kept)


def test_the_digest_depends_on_names_shapes_and_bits():
    kept = torch.ones(2, 4, dtype=torch.bool)
    one_off = kept.clone()
    one_off[0, 0] = False
    digests = {mask_digest(m) for m in ({"a": kept}, {"b": kept}, {"a": kept.view(4, 2)}, {"a": one_off})}
    assert len(digests) == 4


def test_structures():
    assert parse_structure("unstructured") is None
    assert parse_structure("2:4") == (2, 4)
    for wrong in ("4:2", "0:4", "dense", "2:", "2:2"):
        with pytest.raises(SparsityError, match="2:4"):
            parse_structure(wrong)


def test_a_mask_that_is_not_what_was_asked_for_is_refused():
    kept = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    check_structure({"w": kept}, "2:4")
    check_structure({"w": kept}, "unstructured", 0.5)
    assert sparsity({"w": kept}) == 0.5
    with pytest.raises(SparsityError, match="w: 2 groups"):
        check_structure({"w": kept}, "1:4")
    with pytest.raises(SparsityError, match=r"asked for 0\.9"):
        check_structure({"w": kept}, "unstructured", 0.9)
    with pytest.raises(SparsityError, match="no multiple"):
        check_structure({"w": kept[:, :3]}, "2:4")
