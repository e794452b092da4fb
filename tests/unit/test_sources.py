"""Sources: which exports a run has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tap_sendgrid_contacts.api.http import ForbiddenError
from tap_sendgrid_contacts.run.sources import Source, find_sources
from tests.unit.conftest import make_request

if TYPE_CHECKING:
    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.request import ExportRequest

API = "https://api.sendgrid.com/v3/marketing"


@pytest.fixture
def account(requests_mock: Mocker) -> Mocker:
    lists = [
        {"id": "L1", "name": "One", "contact_count": 5},
        {"id": "L2", "name": "", "contact_count": 0},
        {"id": "L3", "name": "with\0NUL"},
    ]
    requests_mock.get(f"{API}/lists", json={"result": lists})
    segments = [{"id": "S1", "name": "Some", "contacts_count": 7}]
    requests_mock.get(f"{API}/segments/2.0", json={"results": segments})
    return requests_mock


def test_lists_and_segments_in_the_order_of_the_settings(
    account: Mocker, client: SendGridClient
) -> None:
    request = make_request(list_ids=("l3", "other", "L1", "l1"), segment_ids=("s1",))
    assert find_sources(client, request) == [
        Source("list", "L3", "withNUL"),
        Source("list", "other", None),
        Source("list", "L1", "One"),
        Source("segment", "S1", "Some"),
    ]
    assert account.call_count == 2


@pytest.mark.parametrize(
    ("request_", "path"),
    [(make_request(list_ids=("L1",)), "lists"), (make_request(segment_ids=("S1",)), "segments")],
)
def test_only_what_is_configured_is_listed(
    account: Mocker, client: SendGridClient, request_: ExportRequest, path: str
) -> None:
    find_sources(client, request_)
    assert [path in sent.path for sent in account.request_history] == [True]


def test_all_lists_of_the_account(account: Mocker, client: SendGridClient) -> None:
    found = [(each.id, each.name) for each in find_sources(client, make_request())]
    assert found == [("L1", "One"), ("L2", None), ("L3", "withNUL")]
    account.get(f"{API}/lists", status_code=403)
    with pytest.raises(ForbiddenError):
        find_sources(client, make_request())


def test_request_of_a_source_keeps_the_other_parameters() -> None:
    base = make_request(("a", "b"), ("c",), "csv", 7, notify_email=True)
    assert Source().request(base) == base
    assert Source("list", "b").request(base) == make_request(
        ("b",), (), "csv", 7, notify_email=True
    )
    assert Source("segment", "c").request(base).body()["segment_ids"] == ["c"]
    assert "list_ids" not in Source("segment", "c").request(base).body()


def test_label_and_stamp() -> None:
    assert str(Source("list", "L1", "One")) == "list L1 (One)"
    assert str(Source("list", "L1", "O\x1bne\nSG.secret.key")) == "list L1 (One ***)"
    assert str(Source("segment", "S\n1", None)) == "segment S 1"
    assert (str(Source()), Source().stamp) == ("", {})
    stamp = {"source_type": "list", "source_id": "L1", "source_name": "One"}
    assert Source("list", "L1", "One").stamp == stamp
