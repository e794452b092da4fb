"""The standard tests of the Singer SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from singer_sdk.testing import SuiteConfig, get_tap_test_class

from sendgrid_sandbox.account import Account
from tap_sendgrid_contacts.api.client import FieldDefinition, SendGridClient
from tap_sendgrid_contacts.tap import TapSendGridContacts
from tests.harness import run_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = [FieldDefinition(field.id, field.name, field.type) for field in Account(50).fields]

# The tests get the sandbox's URL when it runs.
config: dict[str, Any] = {"api_key": "SG.none", "poll_interval": 1}

# The class discovers the columns when it is defined, to make a test of each.
with mock.patch.object(SendGridClient, "list_field_definitions", return_value=FIELDS):
    TestSingerSdk = get_tap_test_class(
        TapSendGridContacts, config=config, suite_config=SuiteConfig(max_records_limit=None)
    )


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> Iterator[None]:
    with run_sandbox("--contacts", "50") as sandbox:
        config.update(api_url=sandbox.url, api_key=sandbox.api_key)
        yield
