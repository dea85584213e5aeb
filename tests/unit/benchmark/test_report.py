"""The benchmark's page and picture."""

from sau.benchmark import Cell, compare, frontier, markdown, run_cell
from sau.benchmark.report import undominated


def test_page_and_picture(tmp_path, spec, prepared):
    cells = [
        run_cell(spec, "demo", Cell("grad_diff", method, "wanda", "2:4", "prune-unlearn", 0), prepared[0])
        for method in ("none", "importance", "unmasked-same-mask")
    ]
    head = {
        "size": "x",
        "command": "sau benchmark",
        "cell_commits": ["c" * 40],
        "hardware": "h",
        "budget": {"text": "b"},
    }
    shipped = spec.shipped
    informed = compare([cell | cell["informed"] for cell in cells], shipped)["ratio"]
    page = markdown(
        {**head, "cells": cells, "references": prepared[1], **compare(cells, shipped), "informed": informed}
    )
    assert "| wanda | 2:4 | prune-unlearn | importance |" in page
    assert "nan" not in page
    for path in frontier(cells, prepared[1], tmp_path / "picture"):
        assert 0 < path.stat().st_size < 300 * 1024
        assert str(tmp_path).encode() not in path.read_bytes()


def test_the_frontier_drops_what_is_beaten_on_both():
    assert undominated([(0.1, 0.5), (0.2, 0.4), (0.3, 0.9), (0.1, 0.6)]) == [(0.1, 0.6), (0.3, 0.9)]
