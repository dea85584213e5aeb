"""Who wins: ratios by hand, with one seed, and with seeds missing."""

from dataclasses import asdict

import pytest

from sau.benchmark import Cell, compare


def made(redistribution: str, seed: int, distance: float) -> dict:
    cell = Cell("npo", redistribution, "wanda", 0.5, "prune-unlearn", seed)
    names = ("distance_to_retrain", "forget_distance", "record_distance")
    numbers = dict.fromkeys(names, distance) | {"decoy_place": 0.5, "utility": 1.0}
    return asdict(cell) | numbers | {"lr": 0.1, "steps": 4, "seconds": 2.0, "at_edge": False}


def test_ratios_by_hand():
    # Each SAU method is lucky on one seed; the mean is 0.3 and 0.32. The rival has 0.2 on both.
    cells = [
        made("importance", 0, 0.1), made("importance", 1, 0.5),
        made("compensated", 0, 0.5), made("compensated", 1, 0.14),
        made("none", 0, 0.25), made("none", 1, 0.25),
        made("unmasked-new-mask", 0, 0.2), made("unmasked-new-mask", 1, 0.2),
    ]  # fmt: skip
    result = compare(cells, ("npo", "compensated"))
    (ratio,) = result["ratio"]
    # The two entries of the same result, seed by seed.
    assert result["sau"][0]["redistribution"] == "importance"
    assert (result["sau"][0]["lowest"], result["sau"][0]["highest"]) == (0.1, 0.5)
    assert result["rival"][0]["distance_to_retrain"] == pytest.approx(0.2)
    assert ratio["ratio_per_seed"] == pytest.approx([0.5, 2.5])
    assert ratio["ratio"] == pytest.approx((0.5 * 2.5) ** 0.5)
    assert (ratio["ratio_lowest"], ratio["ratio_highest"]) == pytest.approx((0.5, 2.5))
    assert ratio["ratio_to_mask_only_per_seed"] == pytest.approx([0.4, 2.0])
    # What was best on the other seed is bad on this one: more methods do not win by having more tickets.
    assert ratio["held_out_ratio_per_seed"] == pytest.approx([2.5, 2.5])
    # The shipped setup is not chosen: its own distances over the rival's, and over mask-only's.
    assert ratio["shipped_ratio_per_seed"] == pytest.approx([2.5, 0.7])
    assert ratio["shipped_ratio_to_mask_only_per_seed"] == pytest.approx([2.0, 0.56])


def test_with_one_seed_nothing_is_held_out():
    (ratio,) = compare([made("importance", 0, 0.1), made("unmasked-same-mask", 0, 0.4)], ("npo", "compensated"))[
        "ratio"
    ]
    assert ratio["ratio"] == pytest.approx(0.25)
    assert not any(name.startswith(("held_out", "shipped", "ratio_to_mask_only")) for name in ratio)


def test_a_setup_that_lacks_a_seed_is_not_chosen():
    cells = [made("importance", 0, 0.1), made("natural", 0, 0.2), made("natural", 1, 0.2)]
    cells += [made("unmasked-new-mask", seed, 0.4) for seed in (0, 1, 2)]
    result = compare(cells, ("npo", "natural"))
    assert result["sau"][0]["redistribution"] == "natural"
    assert result["ratio"][0]["ratio_per_seed"] == pytest.approx([0.5, 0.5])
    # Of a grid that is only begun, no setup may have every seed.
    begun = compare([made("importance", 0, 0.1), made("natural", 1, 0.2), *cells[-3:]], ("npo", "natural"))
    assert begun["ratio"][0]["ratio_per_seed"] == pytest.approx([0.25])
