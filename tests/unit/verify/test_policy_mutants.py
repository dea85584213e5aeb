"""What the reader of policies refuses, and that no mutant of it gets away with less."""

import sys
import types
from pathlib import Path

import pytest
import yaml

from sau.errors import ConfigError
from sau.verify import policy

GOOD = {
    "name": "mine",
    "version": 1,
    "metrics": ["probability"],
    "checks": ["retain_utility", "extraction", {"name": "decoy_rank", "mandatory": False}],
}
STRESSED = {"stressors": ["relearn"], "stressed_checks": ["extraction"]}
TAKEN = ({}, STRESSED, {"checks": ["extraction"]}, {"checks": ["retain_utility", "decoy_rank"]})
REFUSED = (
    {"checks": []},
    {"checks": ["retain_utility"]},
    {"checks": ["retain_utility", {"name": "extraction", "mandatory": False}]},
    {"checks": [{"name": "retain_utility", "mandatory": False}, {"name": "extraction", "mandatory": False}]},
    {"checks": ["extraction", "extraction"]},
    {"stressors": ["relearn"]},
    {"stressed_checks": ["extraction"]},
    STRESSED | {"stressed_checks": ["membership"]},
    STRESSED | {"stressors": ["relearn", "relearn"]},
    {"surprise": 1},
    {"confidence": 0.5},
)


def wrong_answers(module, folder):
    """The policies that a reader takes and should refuse, or refuses and should take."""
    file, wrong = folder / "mine.yaml", []
    for changes, taken in [(c, True) for c in TAKEN] + [(c, False) for c in REFUSED]:
        file.write_text(yaml.safe_dump(GOOD | changes))
        try:
            module.load_policy(file)
        except ConfigError:
            if taken:
                wrong.append(changes)
        else:
            if not taken:
                wrong.append(changes)
    three = GOOD | STRESSED | {"stressors": ["round_weights", "prune_further", "relearn"], "num_stressors": 1}
    file.write_text(yaml.safe_dump(three))
    try:
        read, retrained, two = (
            module.load_policy(file, **own) for own in ({}, {"null": "retrained"}, {"num_stressors": 2})
        )
    except ConfigError:
        return [*wrong, "budget and null"]
    if [len(read.stressors_run), len(read.stressors_left_out)] != [1, 2]:
        wrong.append("budget")
    if len({read.digest, retrained.digest, two.digest}) < 3:
        wrong.append("budget and null are in the digest")
    return wrong


def test_the_reader_takes_and_refuses_what_it_should(tmp_path):
    assert wrong_answers(policy, tmp_path) == []


MUTANTS = [
    ("check.mandatory and check.about_forgetting", "check.about_forgetting"),
    ("check.mandatory and check.about_forgetting", "check.mandatory"),
    ("check.mandatory and check.about_forgetting", "True"),
    ("if not any(check.mandatory", "if not all(check.mandatory"),
    ("if not any(check.mandatory", "if checks and not any(check.mandatory"),
    ("_no_twins([check.id for check in checks])", "pass"),
    ("_no_twins([stressor.id for stressor in self.stressors])", "pass"),
    ("if i not in known]:", "if False]:"),
    ("if bool(self.stressors) != bool(self.stressed_checks):", "if False:"),
    ("if bool(self.stressors) != bool(self.stressed_checks):", "if self.stressors and not self.stressed_checks:"),
    ("self.stressors[: self.num_stressors]", "self.stressors"),
    ("self.stressors[len(self.stressors_run) :]", "()"),
    ("if ids.count(i) > 1}", "if ids.count(i) > 2}"),
    ('frozen=True, extra="forbid"', "frozen=True"),
    ("ge=0.8, lt=1", "ge=0, lt=1"),
    ('("against", null)', '("against", None)'),
    ('("num_stressors", num_stressors)', '("num_stressors", None)'),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_every_mutant_of_the_reader_is_caught(number, monkeypatch, tmp_path):
    old, new = MUTANTS[number]
    source = Path(policy.__file__).read_text()
    assert source.count(old) == 1
    mutant = types.ModuleType("mutant_policy")
    mutant.__file__ = policy.__file__
    monkeypatch.setitem(sys.modules, "mutant_policy", mutant)
    exec(compile(source.replace(old, new), "mutant_policy", "exec"), mutant.__dict__)
    assert wrong_answers(mutant, tmp_path)
