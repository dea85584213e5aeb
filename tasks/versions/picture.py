"""The lineage as a picture and as a page: a column per version, above it the request and the data that made it."""

from dataclasses import dataclass
from pathlib import Path

from sau.errors import some
from sau.verify.report.page import html_template
from tasks.engines.registered import CHAMPION
from tasks.versions.record import VersionRecord

_TEMPLATES = Path(__file__).parent / "templates"
_BLUE, _PURPLE, _GREY = "#175cd3", "#6941c6", "#475467"
_VERDICTS = {"PASS": "#1a7f37", "FAIL": "#b42318", "INCONCLUSIVE": "#9a6700", "REFUSED": "#b42318"}
MAX_SHOWN = 20
"""So many versions are drawn; `sau lineage` prints all of them."""
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _PAD = 350, 78, 46, 40, 20


@dataclass(frozen=True)
class _Box:
    x: int
    y: int
    title: str
    lines: tuple[str, str]
    colour: str


@dataclass(frozen=True)
class _Arrow:
    x1: int
    y1: int
    x2: int
    y2: int


def svg(links: list[VersionRecord]) -> str:
    """The newest versions of a chain as a picture, oldest left: it is stored with each, and has to stay as small.

    Args:
        links: as `chain` gives them, newest first.
    """
    older, links = len(links[MAX_SHOWN:]), links[:MAX_SHOWN]
    boxes: list[_Box] = []
    arrows: list[_Arrow] = []
    y = [_PAD + row * (_HEIGHT + _GAP_Y) for row in range(4)]
    for column, link in enumerate(links[::-1]):
        x = _PAD + column * (_WIDTH + _GAP_X)
        stack = [box for box in _boxes(link, x, y) if box]
        boxes += stack
        middle = x + _WIDTH // 2
        arrows += [_Arrow(middle, box.y + _HEIGHT, middle, box.y + _HEIGHT + _GAP_Y - 3) for box in stack[:-1]]
        if column:
            arrows.append(_Arrow(x - _GAP_X, y[2] + _HEIGHT // 2, x - 3, y[2] + _HEIGHT // 2))
    return html_template(_TEMPLATES / "lineage.svg").render(
        title=f"Lineage of {links[0].tag}" + (f", without {older} versions before these" if older else ""),
        boxes=boxes,
        arrows=arrows,
        box_width=_WIDTH,
        box_height=_HEIGHT,
        width=2 * _PAD + len(links) * _WIDTH + (len(links) - 1) * _GAP_X,
        height=y[3] + _HEIGHT + _PAD,
    )


def _boxes(link: VersionRecord, x: int, y: list[int]) -> tuple[_Box | None, ...]:
    """A version's column: its requests where it has some, its data, itself, its verdict."""
    colour = _VERDICTS.get(link.verdict, _GREY)
    asked = some(link.request_ids, 1)
    name = f"{link.tag}  {CHAMPION}" if link.leads else "  ".join([link.tag, *link.aliases])
    weights = f"weights {link.weights_digest[:14]}"
    mask = f"mask {link.mask_digest[:8]} {link.sparsity:.1%}"
    judged = (f"policy {link.policy}", f"against {link.against}") if link.policy else ("", "")
    return (
        _Box(x, y[0], "forget request", (asked, f"rows {link.forget_md5[:12]}"), _BLUE) if asked else None,
        _Box(x, y[1], "data set", (f"md5 {link.data_md5[:16]}", f"params {link.params_digest[:12]}"), _PURPLE),
        _Box(x, y[2], name, (weights, mask), colour),
        _Box(x, y[3], link.verdict, judged if link.policy else ("no request yet", ""), colour),
    )


def page(links: list[VersionRecord]) -> str:
    """A short self-contained HTML summary of the newest version, with the picture in it."""
    link = links[0]
    facts = {
        "Version": link.tag,
        "Verdict": link.verdict,
        "Requests": ", ".join(link.request_ids) or "none",
        "Parent": links[1].tag if len(links) > 1 else "none",
        "Weights digest (sha256)": link.weights_digest,
        "Mask digest (sha256)": link.mask_digest,
        "Sparsity": link.sparse_in_words,
        "Checkpoint in DVC (md5)": link.checkpoint_md5,
        "Data set in DVC (md5)": link.data_md5,
        "Recipe commit": link.git_commit,
        "Code commit": link.code_commit,
        "Judged against": link.against,
        "Reference model": link.reference or "none",
        "Audit": f"{link.audited}: {link.audit}" if link.audited else "none yet",
        "Bring the bytes back": f"sau reproduce {link.tag}",
        "Make it again": f"sau reproduce {link.tag} --rerun",
    }
    colour = _VERDICTS.get(link.verdict, _GREY)
    return html_template(_TEMPLATES / "summary.html").render(link=link, facts=facts, colour=colour, picture=svg(links))
