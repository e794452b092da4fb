"""URLs: which are safe, and what a signed URL says of its part."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

# Query parameters of signatures (AWS, CloudFront, Google, Azure): new in each status.
_SIGNATURE_PARAMETER = re.compile(
    r"x-(amz|goog)-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|"
    r"sig|s[et]|sk[et]",
    re.IGNORECASE,
)


def is_safe_url(url: str) -> bool:
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
    return parts.scheme == "http" and is_loopback(host)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of the loopback interface."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def urls_by_part_name(urls: Sequence[str]) -> dict[str, str]:
    """Return the URLs by path and query without signature: the order is not promised.

    URLs that differ in nothing else are numbered. The number does not identify a part; that all
    were read is then proven by their content.
    """
    names: dict[str, str] = {}
    occurrences: Counter[str] = Counter()
    for url in urls:
        try:
            parts = urlsplit(url)
            query = [
                (key, value)
                for key, value in parse_qsl(parts.query, keep_blank_values=True)
                if not _SIGNATURE_PARAMETER.fullmatch(key)
            ]
        except ValueError:
            parts, query = urlsplit(""), []
        name = parts.path + ("?" + urlencode(sorted(query)) if query else "")
        occurrences[name] += 1
        names[name if occurrences[name] == 1 else f"{name}#{occurrences[name]}"] = url
    return names


def url_lifetime(url: str) -> float:
    """Return for how many seconds an S3 URL is valid; 0 if it does not say."""
    try:
        expires = parse_qs(urlsplit(url).query).get("X-Amz-Expires", ["0"])[0]
    except ValueError:
        return 0.0
    return float(expires) if expires.isdecimal() else 0.0
