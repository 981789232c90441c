"""All campaigns, in the order in which they run."""

from typing import Final

from fuzz import openapi, publications, requests, stage
from fuzz.campaign import Campaign

CAMPAIGNS: Final = (
    Campaign(
        "openapi",
        "schemathesis over the whole OpenAPI document, against the installed command",
        openapi.run,
        short=600,
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
)
