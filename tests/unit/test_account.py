"""The report of `--test`: what a key without some permission shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from singer_sdk.exceptions import ConfigurationError, FatalAPIError

from tap_sendgrid_contacts.account import AccountReport
from tests.unit.conftest import make_request

if TYPE_CHECKING:
    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.request import ExportRequest

MARKETING = "https://api.sendgrid.com/v3/marketing"
ENDPOINTS = {
    "contact count": f"{MARKETING}/contacts/count",
    "lists": f"{MARKETING}/lists",
    "segments": f"{MARKETING}/segments/2.0",
    "exports": f"{MARKETING}/contacts/exports",
}


@pytest.fixture(autouse=True)
def account(requests_mock: Mocker) -> None:
    for endpoint in ENDPOINTS.values():
        requests_mock.get(endpoint, json={})
    lists = [{"id": "L1", "name": "News"}]
    requests_mock.get(ENDPOINTS["lists"], json={"result": lists})


@pytest.mark.parametrize("missing", ENDPOINTS)
def test_missing_permission_is_shown(
    requests_mock: Mocker, client: SendGridClient, missing: str
) -> None:
    requests_mock.get(ENDPOINTS[missing], status_code=403, json={})
    lines = list(AccountReport(client, make_request(), separate_exports=False).lines([]))
    (permissions,) = (line for line in lines if "Permissions: " in line)
    for name in ENDPOINTS:
        assert f"{name} {'no' if name == missing else 'yes'}" in permissions


@pytest.mark.parametrize(
    ("missing", "request_", "setting"),
    [
        ("exports", make_request(), "api_key"),
        ("lists", make_request(list_ids=("L1",)), "list_ids"),
        ("segments", make_request(segment_ids=("S1",)), "segment_ids"),
    ],
)
def test_needed_permission_is_an_error(
    requests_mock: Mocker,
    client: SendGridClient,
    missing: str,
    request_: ExportRequest,
    setting: str,
) -> None:
    requests_mock.get(ENDPOINTS[missing], status_code=403, json={})
    with pytest.raises(ConfigurationError, match=rf"{setting}.*marketing\.read"):
        AccountReport(client, request_, separate_exports=False).check()


@pytest.mark.parametrize("missing", ["contact count", "lists", "segments"])
def test_permission_that_is_not_needed_is_no_error(
    requests_mock: Mocker, client: SendGridClient, missing: str
) -> None:
    requests_mock.get(ENDPOINTS[missing], status_code=403, json={})
    AccountReport(client, make_request(), separate_exports=False).check()


def test_rejected_key_is_an_error(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(ENDPOINTS["contact count"], status_code=401, json={})
    with pytest.raises(FatalAPIError, match="API key rejected"):
        AccountReport(client, make_request(), separate_exports=False)


def test_count_is_information_only(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(ENDPOINTS["contact count"], json={"contact_count": None})
    report = AccountReport(client, make_request(list_ids=("l1",)), separate_exports=False)
    report.check()
    lines = list(report.lines([]))
    assert lines[0] == "Contacts: unknown"
    assert "  L1 News" in lines


@pytest.mark.parametrize(
    ("request_", "separate_exports", "expected"),
    [
        (make_request(), False, "all contacts (json)"),
        (make_request(), True, "each list (json, one export each)"),
        (make_request(("L1",), file_type="csv"), False, "News (csv)"),
        (make_request(("L1",), ("s1",)), True, "News, s1 (json, one export each)"),
    ],
)
def test_what_a_run_would_export(
    client: SendGridClient, request_: ExportRequest, expected: str, *, separate_exports: bool
) -> None:
    report = AccountReport(client, request_, separate_exports=separate_exports)
    assert f"A run would export: {expected}" in list(report.lines([]))
