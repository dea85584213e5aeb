"""The desk as an application: every page and form, rendered here, without a script."""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flows.desk import pages, purging
from flows.desk.access import COOKIE, MAY, SESSION_S, Access, User
from sau.certificate.notice import About
from sau.errors import RequestError, SauError
from tasks import scope
from tasks.engines import decisions
from tasks.engines.ledger import LINE
from tasks.engines.tables import Law, Reason, State
from tasks.engines.tracking import Tracking
from tasks.notices import notice
from tasks.purge import preview as preview_purge
from tasks.requests import check, csv_of, due, moment, submit, submit_all, withdraw
from tasks.versions.lineage import chain
from tasks.versions.picture import svg
from tasks.versions.registry import Registry

log = logging.getLogger("sau")

MAX_FORM_BYTES = 1 << 20
_TEMPLATES = Path(__file__).parent / "templates"
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE_ALONE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
"""Of a page that was written to be mailed: styles of its own, and nothing else."""
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_DONE = {
    "taken": "The request is taken.",
    "stood": "A request of this person stood already: this is it.",
    "withdraw": "The request is withdrawn.",
    "confirm": "The identity is confirmed.",
    "extend": "The deadline is extended. Tell the person, and why: the letter is among the papers.",
    "refuse": "The request is refused. Tell the person why (Art. 12(4)): the letter is among the papers.",
    "keep": "The request is refused in part: these rows stay. The letter is among the papers.",
    "hold": "A legal hold is on the request. The clock goes on.",
    "release": "The request can go on.",
    "told": "It is noted that the recipient was told.",
    "approve": "The purge is approved by you.",
    "rows": "The rows are decided; the next run does it.",
}

Form = dict[str, list[str]]


def _one(form: Form, name: str) -> str:
    """A field's value, "" where it was left out.

    Raises:
        RequestError: given twice.
    """
    values = form.get(name, [""])
    if len(values) != 1:
        raise RequestError(f"{name}: given {len(values)} times")
    return values[0].replace("\r\n", "\n")


def create_app(access: Access, hosts: list[str]) -> FastAPI:
    """The application.

    Args:
        hosts: names it is called by; any other is refused, so that no foreign page reaches it by a name of its own.
    """
    app = FastAPI(title="sau desk", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def shown(template: str, user: User | None, status: int = 200, **values: Any) -> HTMLResponse:
        values = {
            "user": user,
            "mark": access.mark(user) if user else "",
            "error": "",
            "done": "",
            "here": "",
            "by_link": not access.header,
        } | values
        return HTMLResponse(environment.get_template(template).render(values), status)

    def current(request: Request) -> User | None:
        given = request.headers.get(access.header) if access.header else None
        return access.user(request.cookies.get(COOKIE), given)

    def reader(request: Request) -> User:
        """Who asks, where they may come in."""
        if (user := current(request)) is None:
            raise HTTPException(403 if access.header else 401)
        return user

    async def form(request: Request) -> Form:
        """The fields of a form, whose mark is that of who sends it."""
        user = reader(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/x-www-form-urlencoded":
            raise HTTPException(415)
        raw = bytearray()
        async for part in request.stream():
            raw += part
            if len(raw) > MAX_FORM_BYTES:
                raise HTTPException(413)
        try:
            fields = parse_qs(raw.decode("ascii"), keep_blank_values=True, max_num_fields=5000, errors="strict")
        except ValueError:
            raise HTTPException(400) from None
        if not access.is_marked(user, fields.get("mark", [""])[0]):
            raise HTTPException(403)
        return fields

    Reader = Annotated[User, Depends(reader)]
    Fields = Annotated[Form, Depends(form)]

    def allowed(user: User, action: str) -> None:
        if not user.may(action):
            raise HTTPException(403 if action in MAY else 404)

    @app.middleware("http")
    async def headers(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await handle(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        user = current(request)
        if error.status_code == 401:
            return shown("enter.html", None, 401)
        words = {
            400: "That form could not be read.",
            403: "That is not yours to do, or the form was too old: open the page anew.",
            404: "There is no such page.",
            413: "That form is too long.",
        }
        return shown("error.html", user, error.status_code, error=words.get(error.status_code, "That is not possible."))

    @app.exception_handler(SauError)
    async def failed(request: Request, error: SauError) -> Response:
        return shown("error.html", current(request), 400, error=str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        log.error("desk: %s", type(error).__name__, exc_info=error)
        response = shown("error.html", None, 500, error=f"Something broke ({type(error).__name__}); it is in the log.")
        response.headers.update(HEADERS)
        return response

    # -- coming in ----------------------------------------------------------------------------------

    @app.get("/style.css")
    def style() -> Response:
        return Response((_TEMPLATES / "style.css").read_text(encoding="utf-8"), media_type="text/css")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)  # what every browser asks for

    @app.get("/enter")
    def enter_by_link(token: str = "") -> Response:
        return _entered(token)

    @app.post("/enter")
    async def enter_by_form(request: Request) -> Response:
        raw = (await request.body())[:1000]
        return _entered(parse_qs(raw.decode("utf-8", "replace")).get("token", [""])[0].strip())

    def _entered(token: str) -> Response:
        if (session := access.enter(token)) is None:
            return shown("enter.html", None, 401, error="That is nobody's token.")
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, session, max_age=SESSION_S, httponly=True, samesite="strict")
        return response

    @app.post("/leave")
    def leave(user: Reader, fields: Fields) -> Response:
        access.leave(user.session)
        response = shown("enter.html", None, done="You are out.")
        response.delete_cookie(COOKIE)
        return response

    # -- requests -----------------------------------------------------------------------------------

    @app.get("/")
    def inbox(user: Reader, line: str = "", show: str = "waiting", page: int = 1) -> Response:
        if (line and not LINE.match(line)) or show not in ("waiting", "all", *State) or not 1 <= page <= 1_000_000:
            raise HTTPException(404)
        return shown("inbox.html", user, here="inbox", states=list(State), **pages.inbox(line, show, page))

    @app.get("/requests.csv")
    def as_csv(user: Reader) -> Response:
        held = pages.ledger().held()
        rows = [row.public() | {"due": str(due(row)), "held_by": held.get(row.id)} for row in pages.ledger().list()]
        found = {"Content-Disposition": 'attachment; filename="requests.csv"'}
        return PlainTextResponse(csv_of(rows), media_type="text/csv; charset=utf-8", headers=found)

    def intake(user: User, fields: Form, status: int = 200, **values: Any) -> Response:
        names = ("line", "subject", "subjects", "reason", "law", "received_at")
        given = {name: fields.get(name, [""])[-1] for name in names}
        known: list[str] = []
        with contextlib.suppress(SauError):
            known = list(pages.lines())
        values = {"found": None, "taken": None} | values
        return shown(
            "intake.html", user, status, here="intake", given=given, lines=known, reasons=list(Reason), laws=list(Law),
            **values,
        )  # fmt: skip

    @app.get("/requests/new")
    def new(user: Reader) -> Response:
        allowed(user, "take")
        return intake(user, {})

    @app.post("/requests/check")
    def preview(user: Reader, fields: Fields) -> Response:
        allowed(user, "take")
        try:
            return intake(user, fields, found=check(_one(fields, "line"), _one(fields, "subject").strip()))
        except SauError as error:
            return intake(user, fields, 400, error=str(error))

    @app.post("/requests")
    def take(user: Reader, fields: Fields) -> Response:
        allowed(user, "take")
        try:
            line, subject = _one(fields, "line"), _one(fields, "subject").strip()
            many = _one(fields, "subjects").split("\n")
            if bool(subject) == any(text.strip() for text in many):
                raise RequestError("person: one id, or a list of ids, is needed")
            received = _one(fields, "received_at")
            options: dict[str, Any] = {
                "received_at": moment(received) if received else None, "law": _one(fields, "law") or Law.GDPR,
                "actor": user.name,
            }  # fmt: skip
            reason = _one(fields, "reason") or Reason.UNSTATED
            if not subject:
                return intake(user, {}, taken=submit_all(line, many, reason, **options))
            before = pages.ledger().find(line, subject)
            request = submit(line, subject, reason, **options)
            done = "stood" if before else "taken"
            return RedirectResponse(f"/requests/{request.id}?done={done}", 303)
        except SauError as error:
            return intake(user, fields, 400, error=str(error))

    def request_page(user: User, request_id: str, status: int = 200, **values: Any) -> Response:
        request = pages.ledger().get(request_id)
        found = pages.request_page(request)
        found["history"] = pages.told(found["history"])
        return shown("request.html", user, status, **(found | values))

    @app.get("/requests/{request_id}")
    def one(user: Reader, request_id: str, done: str = "") -> Response:
        return request_page(user, request_id, done=_DONE.get(done, ""))

    @app.get("/requests/{request_id}/letter")
    def letter(user: Reader, request_id: str, language: str = "en") -> Response:
        page = pages.letter_to(request_id, language, html=True)
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_ALONE})

    @app.get("/requests/{request_id}/notices/{about}")
    def told_of(user: Reader, request_id: str, about: str, language: str = "en") -> Response:
        if about not in set(About):
            raise HTTPException(404)
        page = notice(request_id, About(about), language=language, html=True)
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_ALONE})

    @app.get("/requests/{request_id}/certificate")
    def certificate(user: Reader, request_id: str) -> Response:
        entry = pages.latest(request_id)
        name = {"Content-Disposition": f'attachment; filename="certificate-{entry.evidence.request.id}.json"'}
        return Response(entry.path.read_bytes(), media_type="application/json", headers=name)

    def scope_page(user: User, request_id: str, aliases: str, text: bool, status: int = 200, **values: Any) -> Response:
        names = [name.strip() for name in aliases.split("\n") if name.strip()][:100]
        found = scope.find(request_id, names, show_text=text)
        return shown("scope.html", user, status, found=found, aliases=aliases, text=text, **values)

    @app.post("/requests/{request_id}/scope")
    def search(user: Reader, fields: Fields, request_id: str) -> Response:
        return scope_page(user, request_id, _one(fields, "aliases"), bool(_one(fields, "text")))

    @app.get("/requests/{request_id}/purge")
    def purge(user: Reader, request_id: str) -> Response:
        request, plan, why = pages.ledger().get(request_id), None, ""
        found = purging.how_it_stands(request)
        if user.may("purge") and not found.running and not found.done:
            try:
                plan = preview_purge(request_id)
            except SauError as refused:
                why = str(refused)
        return shown("purge.html", user, r=request, found=found, plan=plan, refused=why)

    @app.post("/requests/{request_id}/purge")
    def begin_purge(user: Reader, fields: Fields, request_id: str) -> Response:
        allowed(user, "purge")
        if _one(fields, "sure") != "yes":
            raise RequestError(f"request {request_id}: a purge has to be confirmed, for there is no way back")
        purging.start(request_id, user.name)
        return RedirectResponse(f"/requests/{request_id}/purge", 303)

    @app.post("/requests/{request_id}/{action}")
    def decide(user: Reader, fields: Fields, request_id: str, action: str) -> Response:
        allowed(user, action)
        store, why = pages.ledger(), _one(fields, "why")
        try:
            if action == "withdraw":
                withdraw(request_id, user.name)
            elif action == "refuse":
                decisions.refuse(store, request_id, _one(fields, "ground"), why, user.name)
            elif action in ("rows", "keep"):
                rows = [text.strip() for item in fields.get("record", []) for text in item.split("\n") if text.strip()]
                ground = _one(fields, "ground") or None
                choice = "keep" if action == "keep" else _one(fields, "choice")
                scope.decide(request_id, rows, choice, why, user.name, ground=ground)
            else:
                _SIMPLE[action](store, request_id, why, user.name)
        except SauError as error:
            return request_page(user, request_id, 400, error=str(error))
        return RedirectResponse(f"/requests/{request_id}?done={action}", 303)

    # -- versions -----------------------------------------------------------------------------------

    @app.get("/versions")
    def versions(user: Reader) -> Response:
        return shown("versions.html", user, here="versions", lines=pages.lines())

    @app.get("/versions/{line}/{number}")
    def version(user: Reader, line: str, number: int) -> Response:
        _known(line, number)
        return shown("version.html", user, here="versions", **pages.version_page(line, number))

    @app.get("/versions/{line}/{number}/lineage.svg")
    def picture(user: Reader, line: str, number: int) -> Response:
        _known(line, number)
        return Response(
            svg(chain(line, number)), media_type="image/svg+xml", headers={"Content-Security-Policy": _PAGE_ALONE}
        )

    @app.get("/versions/{line}/{number}/report")
    def report(user: Reader, line: str, number: int) -> Response:
        _known(line, number)
        page = Tracking().artifact(Registry().get(line, number).judged_in, "report.html")
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_ALONE})

    return app


_SIMPLE = {
    "confirm": decisions.confirm,
    "extend": decisions.extend,
    "hold": decisions.hold,
    "release": decisions.release,
    "told": decisions.told,
    "approve": decisions.approve_purge,
}


def _known(line: str, number: int) -> None:
    if not LINE.match(line) or not 1 <= number < 1 << 31:
        raise HTTPException(404)
