"""Byte planes: every byte comes back, over chunks and ends that are no whole number, and like bytes get small."""

import numpy as np
import pytest

from sau.checkpoint.planes import CHUNK_BYTES, read_chunks, squeeze, unsqueeze


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("num_bytes", [0, 1, 7, 1000, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 6])
def test_every_byte_comes_back(tmp_path, num_bytes, itemsize):
    data = np.random.default_rng(0).bytes(num_bytes)
    (tmp_path / "plain").write_bytes(data)
    squeeze(read_chunks(tmp_path / "plain"), tmp_path / "small", itemsize=itemsize)
    assert b"".join(unsqueeze(tmp_path / "small", itemsize=itemsize)) == data


def test_exponents_beside_each_other_get_small(tmp_path):
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    (tmp_path / "plain").write_bytes(values.tobytes())
    squeeze(read_chunks(tmp_path / "plain"), tmp_path / "small", itemsize=4)
    assert (tmp_path / "small").stat().st_size < 0.9 * values.nbytes
