"""All campaigns, in the order in which they run."""

from typing import Final

from fuzz import (
    bodies,
    cells,
    coverage_guided,
    framing,
    hostile_shapes,
    openapi,
    publications,
    requests,
    stage,
    streams,
    tokens,
)
from fuzz.campaign import Campaign

CAMPAIGNS: Final = (
    Campaign(
        "openapi",
        "schemathesis over the whole OpenAPI document, against the installed command",
        openapi.run,
        short=400,
        long=20_000,
        missing=stage.missing,
    ),
    Campaign(
        "publications",
        "any text as device id, operation, parameters and topic, through a session to Mosquitto",
        publications.run,
        short=2_000,
        long=100_000,
        missing=stage.missing,
    ),
    Campaign(
        "requests",
        "the same texts over HTTP, up to a device that hears them",
        requests.run,
        short=1_000,
        long=20_000,
        missing=stage.missing,
    ),
    Campaign(
        "session",
        "a broker's bytes, cut, merged and mangled, into the session (atheris)",
        coverage_guided.runner("fuzz.session_target", streams.conversation),
        short=3_000,
        long=1_000_000,
    ),
    Campaign(
        "bodies",
        "bodies of JSON and NDJSON, mangled, into what reads them (atheris)",
        coverage_guided.runner("fuzz.body_target", bodies.request),
        short=3_000,
        long=1_000_000,
    ),
    Campaign(
        "framing",
        "raw bytes to the port: requests one behind the other, framed in every way, in doubt, mangled and cut",
        framing.run,
        short=300,
        long=20_000,
        missing=stage.missing,
    ),
    Campaign(
        "hostile-shapes",
        "the largest request of every route, made to be dear; none holds the event loop for more than 50 ms",
        hostile_shapes.run,
        short=hostile_shapes.SHORT,
        long=600,
    ),
    Campaign(
        "tokens",
        "Authorization headers, forged and mangled, into what verifies them (atheris)",
        coverage_guided.runner("fuzz.token_target", tokens.header),
        short=3_000,
        long=1_000_000,
    ),
    Campaign(
        "cells",
        "formulas in the CSV report, as LibreOffice reads it",
        cells.run,
        short=128,
        long=128,
        missing=cells.missing,
    ),
)
