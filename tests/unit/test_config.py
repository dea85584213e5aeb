"""YAML: hostile files are refused, and one mapping is laid over another."""

import pytest

from sau.config import merge, read_yaml
from sau.errors import ConfigError


@pytest.mark.parametrize("text", ["a: &x 1\nb: *x\n", "- 1\n", "a: [\n", "x" * (1 << 21)])
def test_hostile_yaml_is_refused(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        read_yaml(tmp_path / "p.yaml")


def test_another_component_replaces_the_old_one_with_its_options():
    base = {"unlearn": {"objective": {"name": "npo", "beta": 0.1}, "lr": 1}}
    assert merge(base, {"unlearn": {"objective": {"name": "simnpo"}}}) == {
        "unlearn": {"objective": {"name": "simnpo"}, "lr": 1}
    }
    assert merge(base, {"unlearn": {"objective": {"beta": 0.2}}})["unlearn"]["objective"] == {
        "name": "npo",
        "beta": 0.2,
    }
