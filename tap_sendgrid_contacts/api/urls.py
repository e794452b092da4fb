"""URLs: which are safe, and what a signed URL says of its part."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Query parameters of signatures (AWS, CloudFront, Google, Azure): new in each status.
_SIGNATURE_PARAMETER = re.compile(
    r"x-(amz|goog)-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|"
    r"sig|s[et]|sk[et]",
    re.IGNORECASE,
)

# A part number has no more characters; what a server makes up per request has more.
_MAX_NUMBER_LENGTH = 8
_SHORT_NUMBER = re.compile(rf"(?<!\d)\d{{1,{_MAX_NUMBER_LENGTH}}}(?!\d)")


def is_safe_url(url: str, *, allow_http: bool = True) -> bool:
    """Return whether secrets and contacts may be sent there: `https`, or `http` on loopback."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    # Parsers disagree on whether a backslash ends the host. A password in the URL would end up
    # in every STATE.
    if "\\" in url or "@" in parts.netloc:
        return False
    if parts.scheme == "https":
        return bool(host)
    return allow_http and parts.scheme == "http" and is_loopback(host)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of the loopback interface."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def urls_by_part_name(urls: Sequence[str]) -> dict[str, str]:
    """Return the URLs by the names of their parts: the order is not promised.

    The path names a part. Only where paths are alike, the name has query parameters as well: those
    that look like the number of a part. Any other may be new in each status, as signatures are.

    URLs that nothing tells apart are numbered. The number does not identify a part; that all were
    read is then proven by their content.
    """
    by_path: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for url in urls:
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            parts, query = urlsplit(""), {}
        by_path.setdefault(parts.path, []).append((url, query))
    names: dict[str, str] = {}
    for path, alike in by_path.items():
        keys = _part_keys([query for _, query in alike])
        for number, (url, query) in enumerate(alike, 1):
            name = path
            if keys:
                name += "?" + urlencode({key: query[key] for key in keys})
            elif number > 1:
                name += f"#{number}"
            names[name] = url
    return names


def _part_keys(queries: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the query parameters that tell the URLs of one path apart, if any do."""
    if len(queries) == 1:
        return []
    common = set(queries[0]).intersection(*queries)
    values = {
        key: [query[key] for query in queries]
        for key in sorted(common)
        if not _SIGNATURE_PARAMETER.fullmatch(key)
    }
    numbers = {key: texts for key, texts in values.items() if _are_part_numbers(texts)}
    # One alone, the shortest, as long as it tells all of them apart; else all together.
    by_length = sorted(numbers, key=lambda key: (max(map(len, numbers[key])), key))
    for keys in (*([key] for key in by_length), by_length):
        if len(set(zip(*(numbers[key] for key in keys), strict=True))) == len(queries):
            return keys
    return []


def _are_part_numbers(texts: Sequence[str]) -> bool:
    """Return whether values are short, or differ in a short number only: no random ones do."""
    if len(set(texts)) == 1:
        return False
    is_short = max(map(len, texts)) <= _MAX_NUMBER_LENGTH
    return is_short or len({_SHORT_NUMBER.sub("", text) for text in texts}) == 1
