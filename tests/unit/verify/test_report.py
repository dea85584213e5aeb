"""Reports: self-contained, escaped, the same numbers as the record."""

import re

import pytest

from sau.data.demo import demo_rows
from sau.errors import DataError
from sau.verify.record import Finding, Verification
from sau.verify.report.answers import answers
from sau.verify.report.page import render_html, render_markdown
from sau.verify.report.plots import plots

HOSTILE = '<script>alert(1)</script><img src=x onerror="y">'


def finding(**changes) -> Finding:
    fields = {
        "id": "membership/mia_loss", "title": "Membership inference", "question": "an AUC", "mandatory": True,
        "n": 180, "value": 0.523, "interval": (0.45, 0.59), "before": 1.0, "reference": 0.46,
        "margin": (0.26, 0.66), "p": 1.0, "power": 0.99, "verdict": "PASS", "reason": "within the margin",
    }  # fmt: skip
    return Finding(**{**fields, **changes})


def verification(**changes) -> Verification:
    scores = {
        role: {"forget": [low, low + 0.5, low + 1], "retain": [-0.1, -0.2], "holdout": [-4.0, -3.5, -3.0]}
        for role, low in (("before", -1.0), ("reference", -4.0), ("unlearned", -4.2))
    }
    table = {
        role: {
            "forget": {"probability": 0.123456}, "retain": {"probability": 0.9}, "holdout": {"probability": None},
            "membership": {"mia_loss": 0.5}, "model": {"retain_utility": 1.0},
        }
        for role in scores
    }  # fmt: skip
    fields = {
        "verdict": "PASS", "reasons": ["all is well"], "policy": "quick", "policy_version": 1,
        "policy_digest": "a" * 64, "confidence": 0.95, "weights_digest": "b" * 64, "seed": 0,
        "null": "retrained",
        "num_records": {"forget": 3, "retain": 2, "holdout": 3}, "num_people": {"forget": 1, "retain": 1, "holdout": 3},
        "checks": [finding()], "table": table,
        "scores": scores, "limits": ["It does not prove that nothing is left."],
    }  # fmt: skip
    return Verification(**{**fields, **changes})


def html(v=None, **changes) -> str:
    return render_html(v or verification(), **{"title": "A report", "facts": {"Line": "tiny"}, **changes})


def test_the_page_shows_verdict_numbers_and_controls():
    page = html()
    assert ">PASS</strong>" in page
    assert page.index(">PASS</strong>") < page.index("Membership inference")
    for shown in ("0.523", "0.450 to 0.590", "1.000", "0.460", "0.260 to 0.660", "0.123", "b" * 64, "tiny"):
        assert shown in page


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE", "REFUSED"])
def test_every_verdict_has_words(verdict):
    page = html(verification(verdict=verdict))
    assert f">{verdict}</strong>" in page
    assert re.search(r'class="headline">[A-Z].{20,}</div>', page)


def test_a_pass_with_an_optional_failure_does_not_look_clean():
    warned = verification(checks=[finding(), finding(verdict="FAIL", mandatory=False)])
    assert "a check that it does not count found a trace" in html(warned)
    assert "a check that it does not count found a trace" not in html()


def test_the_page_is_self_contained():
    page = html()
    assert "default-src 'none'" in page
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert "<link" not in page
    urls = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert all(url.startswith("http://www.w3.org/") for url in urls)  # SVG name spaces
    assert not re.search(r"url\((?!#)", page)


STRESSED = [
    finding(),
    finding(id="membership/mia_loss/int4", title="Membership inference after quantisation (int4)", verdict="FAIL"),
    finding(
        id="membership/mia_loss/densify", title="Membership inference, filled (densify)", verdict="INCONCLUSIVE",
        mandatory=False, value=None, interval=None, before=None, reference=None, margin=None, power=None,
    ),
]  # fmt: skip
UNLEARNING = {
    "num_steps": 8,
    "trajectory": [
        {"step": 0, "forget_logp": -0.03, "retain_logp": -0.02, "target_logp": -1.4},
        {"step": 8, "forget_logp": -1.52, "retain_logp": -0.07, "target_logp": -1.5},
        {"step": 12, "forget_logp": -3.52, "retain_logp": -0.9, "target_logp": -1.5},  # too far: not kept
    ],
}


def test_every_plot_is_drawn_from_what_it_needs():
    titles = [plot["title"] for plot in plots(verification(checks=STRESSED), UNLEARNING)]
    assert titles == [
        "How well each model knows the records",
        "Telling forgotten from unseen records",
        "The records to forget, model against model",
        "Forget, keep, never seen",
        "The way there",
        "The same checks after the model was changed",
    ]
    assert len(plots(verification())) == 4
    no_holdout = {role: {**sets, "holdout": []} for role, sets in verification().scores.items()}
    assert len(plots(verification(scores=no_holdout))) == 2
    assert plots(verification(scores={}, checks=[])) == []


def test_the_ks_curves_say_the_largest_gap_to_the_model_that_never_saw_the_records():
    svg = plots(verification())[2]["svg"]
    # before: -1, -0.5, 0; never saw it: -4, -3.5, -3 (disjoint); after: -4.2, -3.7, -3.2 (a third apart)
    assert "Before, D = 1.00" in svg
    assert "After unlearning, D = 0.33" in svg


def test_the_stressors_plot_names_what_was_done_and_what_did_not_run():
    svg = plots(verification(checks=STRESSED))[-1]["svg"]
    for text in ("as stored", "int4", "densify", "did not run"):
        assert text in svg


def test_the_way_there_is_said_in_numbers_too():
    page = html(unlearning=UNLEARNING)
    assert "8 steps; to forget -0.03 to -1.52, to keep -0.02 to -0.07" in page
    text = render_markdown(verification(), title="A", facts={}, unlearning=UNLEARNING)
    assert "8 steps; to forget" in text
    assert "8 steps" not in html()


def test_the_summary_groups_checks_by_outcome():
    page = html(verification(verdict="FAIL", checks=STRESSED))
    assert "Beyond the margin: Membership inference (int4)." in page
    assert "Without a clear result, and not counted by this policy: Membership inference (densify)." in page
    assert "Within the margin: Membership inference." in page


def test_the_same_verification_gives_the_same_bytes():
    assert html() == html()


def test_everything_given_is_escaped():
    answers = [{"set": "forget", "question": HOSTILE, "before": HOSTILE, "after": HOSTILE}]
    v = verification(checks=[finding(reason=HOSTILE, title=HOSTILE)], limits=[HOSTILE])
    assert "<script" not in html(verification(verdict="REFUSED", reasons=[HOSTILE], checks=[], table={}, scores={}))
    page = html(v, title=HOSTILE, facts={HOSTILE: HOSTILE}, answers=answers)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_answers_are_shown_only_when_given():
    assert "Invented people" not in html()
    page = html(answers=[{"set": "forget", "question": "Q1", "before": "B1", "after": "A1", "reference": "R1"}])
    for shown in ("Q1", "B1", "A1", "R1"):
        assert f"<td>{shown}</td>" in page


def test_missing_numbers_are_dashes_not_errors():
    bare = finding(value=None, interval=None, before=None, reference=None, margin=None, verdict="INCONCLUSIVE")
    page = html(verification(checks=[bare], table={}, scores={}))
    assert "<svg" not in page
    assert "–" in page
    assert "REFUSED" in html(verification(verdict="REFUSED", checks=[], table={}, scores={}))


def test_one_sided_margins():
    checks = [finding(margin=(0.8, None)), finding(margin=(None, 0.3))]
    page = html(verification(checks=checks))
    assert "at least 0.80" in page
    assert "at most 0.30" in page


def test_identical_scores_can_be_drawn():
    flat = {"forget": [-1.0, -1.0], "retain": [-1.0], "holdout": [-1.0]}
    assert html(verification(scores={"unlearned": flat})).count("<svg") == 4


def test_markdown_has_the_same_table_and_keeps_cells_closed():
    v = verification(checks=[finding(reason="a | b\n<b>")])
    text = render_markdown(v, title="A report", facts={"Line": "tiny"}, answers=[
        {"set": "retain", "question": "Q | 1", "before": "B", "after": "A", "reference": "R"}
    ])  # fmt: skip
    assert "**PASS**" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| Membership inference |")]
    assert "| 180 | 0.523 | 0.450 to 0.590 | 1.000 | 0.460 | 0.260 to 0.660 | 0.990 | PASS |" in line
    assert "a \\| b \\<b\\>" in line
    rows = [line for line in text.splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert columns.count(11) == 3
    assert "| to keep | Q \\| 1 | B | A | R |" in text


def test_answers_are_shown_of_demo_people_only(before, reference):
    rows = {"forget": demo_rows("demo-0003", seed=1), "retain": demo_rows("demo-0004", seed=1)}
    shown = answers({"before": before, "after": lambda: reference, "reference": None}, rows, num_rows=2)
    assert [entry["set"] for entry in shown] == ["forget", "forget", "retain", "retain"]
    assert shown[0]["before"] == before.answer(rows["forget"][0]["question"])
    assert shown[3].keys() == {"set", "question", "before", "after"}
    real = {**rows["retain"][0], "answer": "They live in a real town."}
    with pytest.raises(DataError, match="1 of 4 rows"):
        answers({"before": before}, {"forget": rows["forget"], "retain": [real, *rows["retain"]]}, num_rows=2)
