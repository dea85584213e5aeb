"""Lineage: request -> data -> mask -> parent version -> new version, from MLflow's tags; as tree, JSON and picture."""

from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from sau.errors import RequestError, TrackingError
from tasks.settings import settings
from tasks.tracking import CHAMPION, Tracking
from tasks.workspace import tag_name


@dataclass(frozen=True)
class Link:
    """One version and what made it."""

    tag: str
    verdict: str
    aliases: tuple[str, ...]
    request_ids: tuple[str, ...]
    model_digest: str
    mask_digest: str
    sparsity: str
    data_md5: str
    forget_md5: str
    checkpoint_md5: str
    params_digest: str
    code_commit: str
    git_commit: str
    reference: str
    policy: str
    run_id: str

    def public(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def _link(version: ModelVersion) -> Link:
    tags = version.tags
    return Link(
        tag=tag_name(version.name, int(version.version)),
        verdict=tags["verdict"],
        aliases=tuple(sorted(version.aliases)),
        request_ids=tuple(r for r in tags["request_ids"].split(",") if r),
        run_id=version.run_id or "",
        **{key: tags.get(key, "") for key in Link.__dataclass_fields__ if key not in _OWN},
    )


_OWN = {"tag", "verdict", "aliases", "request_ids", "run_id"}


def chain(line: str, number: int) -> list[Link]:
    """A version and all its parents, newest first.

    Raises:
        RequestError: no such version.
        TrackingError: a parent is missing, or its digest is not the one its child recorded: the chain has a gap.
    """
    tracking = Tracking(settings())
    links: list[Link] = []
    child: ModelVersion | None = None
    current: int | None = number
    while current is not None:
        version = tracking.version(line, current)
        if version is None:
            missing = tag_name(line, current)
            if child is None:
                raise RequestError(f"version {missing}: not in this MLflow store")
            raise TrackingError(f"lineage: {missing}, the parent of {tag_name(line, int(child.version))}, is missing")
        if child is not None and child.tags["parent_digest"] != version.tags["model_digest"]:
            raise TrackingError(f"lineage: {tag_name(line, current)} is not the model its child was made from")
        links.append(_link(version))
        child, parent = version, version.tags["parent_version"]
        current = int(parent) if parent else None
    return links


# -- picture and page -------------------------------------------------------------------------------

_COLOURS = {
    "PASS": "#1a7f37",
    "FAIL": "#b42318",
    "INCONCLUSIVE": "#9a6700",
    "REFUSED": "#b42318",
    "BOOTSTRAP": "#475467",
}
_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _PAD = 230, 78, 46, 40, 20


def _box(x: float, y: float, title: str, lines: list[str], colour: str, fill: str = "#ffffff") -> str:
    texts = "".join(
        f'<text x="{x + 12}" y="{y + 42 + 16 * i}" class="s">{escape(line)}</text>' for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{_BOX_W}" height="{_BOX_H}" rx="8" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
        f'<text x="{x + 12}" y="{y + 23}" class="t" fill="{colour}">{escape(title)}</text>{texts}'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1} {y1} L{x2} {y2}" stroke="#98a2b3" stroke-width="1.5" marker-end="url(#a)" fill="none"/>'


def svg(links: list[Link]) -> str:
    """The chain as a picture: a column per version (oldest left), above it the requests and data that made it."""
    ordered = links[::-1]
    width = 2 * _PAD + len(ordered) * _BOX_W + (len(ordered) - 1) * _GAP_X
    rows = 4
    height = 2 * _PAD + rows * _BOX_H + (rows - 1) * _GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>Lineage of " + escape(links[0].tag) + "</title>",
        "<style>.t{font:600 14px system-ui,sans-serif}.s{font:12px ui-monospace,monospace;fill:#344054}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#98a2b3"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#f9fafb"/>',
    ]
    y = [_PAD + row * (_BOX_H + _GAP_Y) for row in range(rows)]
    for column, link in enumerate(ordered):
        x = _PAD + column * (_BOX_W + _GAP_X)
        middle = x + _BOX_W / 2
        if link.request_ids:
            more = f" and {len(link.request_ids) - 1} more" if len(link.request_ids) > 1 else ""
            parts.append(
                _box(x, y[0], "forget request", [link.request_ids[0] + more, f"rows {link.forget_md5[:12]}"], "#175cd3")
            )
            parts.append(_arrow(middle, y[0] + _BOX_H, middle, y[1] - 3))
        parts.append(
            _box(x, y[1], "data set", [f"md5 {link.data_md5[:16]}", f"params {link.params_digest[:12]}"], "#6941c6")
        )
        parts.append(_arrow(middle, y[1] + _BOX_H, middle, y[2] - 3))
        colour = _COLOURS.get(link.verdict, "#475467")
        name = f"{link.tag}  {CHAMPION}" if CHAMPION in link.aliases else "  ".join([link.tag, *link.aliases])
        parts.append(
            _box(
                x,
                y[2],
                name,
                [f"model {link.model_digest[:14]}", f"mask {link.mask_digest[:8]} {float(link.sparsity):.1%}"],
                colour,
                "#ffffff",
            )
        )
        if column:
            parts.append(_arrow(x - _GAP_X, y[2] + _BOX_H / 2, x - 3, y[2] + _BOX_H / 2))
        parts.append(_arrow(middle, y[2] + _BOX_H, middle, y[3] - 3))
        judged = (
            [f"policy {link.policy}", f"against {link.reference or 'nothing'}"] if link.policy else ["no request yet"]
        )
        parts.append(_box(x, y[3], link.verdict, judged, colour))
    return "".join(parts) + "</svg>\n"


def page(links: list[Link]) -> str:
    """A short self-contained HTML summary of the newest version's request, with the picture in it."""
    link = links[0]
    facts = {
        "Version": link.tag,
        "Verdict": link.verdict,
        "Requests": ", ".join(link.request_ids) or "none",
        "Parent": links[1].tag if len(links) > 1 else "none",
        "Model digest (sha256)": link.model_digest,
        "Mask digest (sha256)": link.mask_digest,
        "Checkpoint in DVC (md5)": link.checkpoint_md5,
        "Data set in DVC (md5)": link.data_md5,
        "Recipe commit": link.git_commit,
        "Code commit": link.code_commit,
        "Reference model": link.reference or "none",
        "Bring the bytes back": f"sau reproduce {link.tag}",
        "Make it again": f"sau reproduce {link.tag} --rerun",
    }
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    colour = _COLOURS.get(link.verdict, "#475467")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(link.tag)}: {escape(link.verdict)}</title><style>"
        "body{font:15px/1.5 system-ui,sans-serif;color:#101828;margin:32px;max-width:1100px}"
        "h1{font-size:22px;margin:0 0 4px}th{text-align:left;font-weight:500;color:#475467;padding:4px 24px 4px 0;white-space:nowrap}"
        "td{font-family:ui-monospace,monospace;font-size:13px;word-break:break-all}table{border-collapse:collapse;margin:20px 0}"
        f".v{{display:inline-block;color:#fff;background:{colour};border-radius:6px;padding:2px 10px;font-weight:600;font-size:14px}}"
        "figure{margin:16px 0;overflow-x:auto}</style></head><body>"
        f'<h1>{escape(link.tag)} <span class="v">{escape(link.verdict)}</span></h1>'
        f"<figure>{svg(links)}</figure><table>{rows}</table></body></html>\n"
    )
