"""The crash matrix of bootstrap: stopped anywhere, in one way or another, and run again, it ends as uninterrupted."""

import pytest

from tests.e2e.matrix import is_right, run_matrix
from tests.killing import KINDS
from tests.small_line import options

pytestmark = [pytest.mark.crash, pytest.mark.timeout(15000)]


def test_a_first_version_stopped_anywhere_is_the_uninterrupted_one(copy_checkout, tmp_path):
    found = run_matrix(copy_checkout(tmp_path / "checkout"), "bootstrap", tmp_path, *options(tmp_path))
    right, cells = found["uninterrupted"], found["cells"]
    assert right["leader"][:2] == ["tiny@v1", "BOOTSTRAP"]
    assert ([len(versions) for versions in right["versions"]], right["models"], right["requests"]) == ([1, 0], 1, [])
    assert [right["running"], right["running_flows"], right["work"], right["worktrees"]] == [[], [], [], 0]
    assert (len(cells) >= 30, {cell["kind"] for cell in cells}) == (True, set(KINDS))
    assert [cell for cell in cells if not is_right(cell)] == []
