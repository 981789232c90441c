"""Every campaign in its short form."""

from pathlib import Path

import pytest

from fuzz.campaign import Campaign
from fuzz.campaigns import CAMPAIGNS


def test_the_script_names_every_campaign() -> None:
    script = (Path(__file__).parents[2] / "scripts/fuzz").read_text()
    assert not [each.name for each in CAMPAIGNS if each.name not in script]


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_nothing_is_found(campaign: Campaign) -> None:
    if missing := campaign.missing():
        pytest.skip(missing)
    outcome = campaign.run(campaign.short)
    assert not outcome.findings
    assert outcome.cases >= campaign.short
