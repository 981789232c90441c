"""`/docs` and `/openapi.json`: the API explains itself, without a route to the internet."""

from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from chapar.api.problems import Problem
from chapar.api.schemas import SendRequest

_STATIC: Final = Path(__file__).parent / "static"
_ASSETS: Final = "/docs/assets"

DESCRIPTION: Final = """
The command gateway for MQTT devices: one call sends an operation to a device, and you learn the truth about it.

| answer to `POST /messaging/send` | what it promises |
| --- | --- |
| **201** | Committed to the database **and** acknowledged by the broker. It is never sent again. |
| **202** | Committed, and its delivery goes on: asked for, or not answered in time. `Location` says where to look. |
| **406** | It was **not sent and never will be**. `code` and `reason` say why. |
| 400 408 409 413 415 422 429 | Nothing stored, nothing sent. |
| **503** | The database cannot say whether it committed. Safe to repeat with the same `Idempotency-Key`. |

Errors are `application/problem+json` (RFC 9457); `reason` is in Persian with `Accept-Language: fa`.
"""


class DocumentedAPI(FastAPI):
    """FastAPI, whose OpenAPI document also knows the shape of a problem."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; the schemas of problems and messages are referred to by name."""
        document = super().openapi()
        for model in (Problem, SendRequest):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
        return document


def install(app: FastAPI) -> None:
    """Serve Swagger UI from our own files."""
    app.mount(_ASSETS, StaticFiles(directory=_STATIC), name="documentation-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title} - API",
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon-32x32.png",
            # Without this Swagger UI asks a validator on the internet about every document.
            swagger_ui_parameters={"validatorUrl": None},
        )
