"""YAML: hostile files are refused, and one mapping is laid over another."""

import pytest

from sau.config import Section, checked, merge, read_yaml
from sau.errors import ConfigError, some


@pytest.mark.parametrize("text", ["a: &x 1\nb: *x\n", "- 1\n", "a: [\n", "x" * (1 << 21)])
def test_hostile_yaml_is_refused(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        read_yaml(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("words", "said"), [("", ""), ("a", "a"), ("ab", "a; b"), ("abc", "a; b and 1 more"), ("abcd", "a; b and 2 more")]
)
def test_of_many_words_the_first_few_are_said_and_how_many_more_there_are(words, said):
    assert some(words, 2, "; ") == said


def test_of_many_problems_ten_are_named_and_the_others_counted():
    with pytest.raises(ConfigError) as refused:
        checked(Section, {f"key{n}": n for n in range(13)}, "parameters")
    assert str(refused.value).count("Extra inputs") == 10
    assert str(refused.value).endswith(" and 3 more")


def test_another_component_replaces_the_old_one_with_its_options():
    base = {"unlearn": {"objective": {"name": "npo", "beta": 0.1}, "lr": 1}}
    assert merge(base, {"unlearn": {"objective": {"name": "simnpo"}}}) == {
        "unlearn": {"objective": {"name": "simnpo"}, "lr": 1}
    }
    assert merge(base, {"unlearn": {"objective": {"beta": 0.2}}})["unlearn"]["objective"] == {
        "name": "npo",
        "beta": 0.2,
    }
