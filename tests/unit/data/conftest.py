"""The demo people as files."""

import pytest

from sau.data import write_demo_data


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder of them; read only."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder)
    return folder
