"""`/docs` and `/openapi.json`: the API explains itself, without a route to the internet."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import iter_route_contexts
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from chapar import __version__
from chapar.web.api.events import EventData
from chapar.web.api.schemas import SendRequest
from chapar.web.http import problems
from chapar.web.http.entrance import GuardedRoute, Identity, allow, check
from chapar.web.http.problems import Problem, answers
from chapar.web.http.proxies import root_path_of

_STATIC: Final = Path(__file__).parent / "static"
_ASSETS: Final = "/docs/assets"
_RELATIVE: Final = "docs/assets"  # to `/docs`
_ANY_REQUEST: Final = (400, 408, 414, 421, 431, 503)  # of the connection's bounds, or a wrong Host
_AT_THE_ENTRANCE: Final = (401, 403, 429, 503)  # and 403 for what a page of another site asks for
_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

_DESCRIPTION: Final = """
The command gateway for MQTT devices: one call sends an operation to a device, and you learn the truth about it.

| answer to `POST /messaging/send` | what it promises |
| --- | --- |
| **201** | Committed to the database **and** acknowledged by the broker. It is never sent again. With \
`wait: device` the device's final word is committed too. |
| **202** | Committed, and its delivery goes on: asked for, or not answered in time. `Location` says where to look. |
| **406** | It was **not sent and never will be**. `code` and `reason` say why. |
| 400 401 403 408 409 413 414 415 421 422 429 431 | Nothing stored, nothing sent. |
| **503** | The database cannot say whether it committed. Safe to repeat with the same `Idempotency-Key`. |

Errors are `application/problem+json` (RFC 9457); `reason` is in Persian with `Accept-Language: fa`.
"""


_TAGS: Final = [
    {"name": "messaging", "description": "Send operations to devices, and see, cancel or resend what was sent."},
    {"name": "devices", "description": "Who is out there: register devices, and see whether each is online."},
    {"name": "catalog", "description": "What may be sent: operations, and the parameters that each takes."},
    {"name": "events", "description": "What changes, as it changes."},
    {"name": "reporting", "description": "Every message as a stream, and counts of them."},
    {"name": "access", "description": "Who may call: API keys, and the trail of who did what."},
    {"name": "health", "description": "Whether the gateway serves and can deliver, and what it measures of itself."},
]

_TEHRAN: Final = timezone(timedelta(hours=3, minutes=30))
_TIMES_AHEAD: Final = (
    ("SendRequest", "deliver_at", 2),
    ("KeyRequest", "expires_at", 365),
    ("EndRequest", "expires_at", 365),
)
"""Fields whose example is a time so many days from now."""

_SECURITY_SCHEMES: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (`chapar_…`) or a token (JWT). Without any set up, nothing is needed on loopback.",
    }
}


class _DocumentedAPI(FastAPI):
    """FastAPI, whose OpenAPI document also knows the shape of a problem."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; the schemas of problems and messages are referred to by name."""
        document = self.openapi_schema or self._document()
        for schema, field, days in _TIMES_AHEAD:  # anew each time: an example of last month would be refused
            time = (datetime.now(_TEHRAN) + timedelta(days)).replace(hour=5, minute=30, second=0, microsecond=0)
            document["components"]["schemas"][schema]["properties"][field]["examples"] = [time.isoformat()]
        return document

    def _document(self) -> dict[str, Any]:
        document = super().openapi()
        for model in (Problem, SendRequest, EventData):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
        document["components"]["securitySchemes"] = _SECURITY_SCHEMES
        document["security"] = [{"bearer": []}]
        for route in iter_route_contexts(self.routes):
            guarded = route.original_route
            if not isinstance(guarded, GuardedRoute) or not guarded.include_in_schema:
                continue
            of_query = (422,) if guarded.checks_query else ()
            for method in route.methods or ():
                operation = document["paths"][route.path_format][method.lower()]
                if guarded.policy is Identity.ANY:
                    operation["security"] = []
                for status, answer in answers(*_ANY_REQUEST, *_AT_THE_ENTRANCE, *of_query).items():
                    operation["responses"].setdefault(str(status), answer)
        written = json.dumps(document)
        schemas = document["components"]["schemas"]
        document["components"]["schemas"] = {name: schemas[name] for name in schemas if f'/schemas/{name}"' in written}
        return document


def documented_api(routers: Iterable[APIRouter]) -> FastAPI:
    """The application of these routers, which answers errors as problems and explains itself."""
    app = _DocumentedAPI(
        title="Chapar",
        version=__version__,
        description=_DESCRIPTION,
        contact={"name": "The maintainers of Chapar"},
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=_TAGS,
        openapi_url=None,
        redirect_slashes=False,  # behind a proxy it may lead to plain HTTP, with the caller's key
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    for router in routers:
        app.include_router(router)
    problems.install(app)
    _install(app)
    return app


def _install(app: FastAPI) -> None:
    """Serve the OpenAPI document, and Swagger UI from our own files."""
    router = APIRouter(route_class=GuardedRoute)
    page = get_swagger_ui_html(
        # From here on as seen from `/docs`, below whatever path that stands.
        openapi_url="openapi.json",
        title=f"{app.title} - API",
        swagger_js_url=f"{_RELATIVE}/swagger-ui-bundle.js",
        swagger_css_url=f"{_RELATIVE}/swagger-ui.css",
        swagger_favicon_url=f"{_RELATIVE}/favicon-32x32.png",
        # Without this Swagger UI asks a validator on the internet about every document.
        swagger_ui_parameters={"validatorUrl": None},
    ).body
    policy = _policy_of(bytes(page))

    @router.get("/openapi.json", include_in_schema=False)
    @allow(Identity.KNOWN)
    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse(app.openapi() | {"servers": [{"url": root_path_of(request.scope) or "."}]})

    @router.get("/docs", include_in_schema=False)
    @allow(Identity.KNOWN)
    async def docs() -> HTMLResponse:
        return HTMLResponse(bytes(page), headers={"Content-Security-Policy": policy})

    app.include_router(router)
    app.mount(_ASSETS, _Assets(directory=_STATIC), name="documentation-assets")


class _Assets(StaticFiles):
    """Swagger UI's files, behind the same door. A browser keeps them, and asks about them before it uses them again."""

    policy = Identity.KNOWN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file to whoever may read the documentation."""
        check(scope["caller"], self.policy)
        await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, or that it has not changed."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _policy_of(page: bytes) -> str:
    """The page may load what is ours, run the script that stands in it, and send requests to nobody but us."""
    scripts = [f"'sha256-{b64encode(sha256(text).digest()).decode()}'" for text in _INLINE_SCRIPT.findall(page)]
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' {' '.join(scripts)}",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
