"""Where BATCH files are: a local folder, or an object store that fsspec opens."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import fsspec
from fsspec.utils import get_protocol
from singer_sdk.exceptions import ConfigurationError, DataError, FatalSyncError

from tap_sendgrid_contacts.api.urls import is_safe_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What a storage root can be in. Others, such as `memory`, lose or publish what is written.
_PROTOCOLS = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss")

# What object stores read from the environment where `storage.params` lacks these options.
_VARIABLES = {
    "AWS_CA_BUNDLE": "verify",
    "AWS_ENDPOINT_URL": "endpoint_url",
    "AWS_ENDPOINT_URL_S3": "endpoint_url",
    "AZURE_STORAGE_CONNECTION_STRING": "connection_string",
    "OSS_ENDPOINT": "endpoint",
    "REQUESTS_CA_BUNDLE": "verify",
    "STORAGE_EMULATOR_HOST": "endpoint_url",
}

_FOLDER_PREFIX = "tap-sendgrid-contacts-"
_UNFINISHED = ".unfinished"


def is_local(url: str) -> bool:
    """Return whether a URL is that of a local folder or file."""
    return get_protocol(url) in {"file", "local"}


def resolve_root(root: str) -> str:
    """Return a root as a URL; without a root, that of a new folder.

    Readers of BATCH messages take what follows `file://` as it is, so nothing is encoded.
    """
    if "://" in root:
        return root
    folder = Path(root).absolute() if root else Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    return f"file:///{folder.as_posix().lstrip('/')}"


def validate_root(root: str, prefix: str) -> None:
    """Raise `ConfigurationError` for a storage root, or a prefix, that is not supported."""
    if "::" in f"{root}{prefix}":
        raise ConfigurationError(
            "batch_config.storage.root and prefix must not have '::', which chains file systems"
        )
    if not root:
        return
    has_protocol = re.match(r"[a-z][a-z\d+.-]+:", root, re.IGNORECASE)
    protocol, separator, path = root.partition("://")
    if has_protocol and (protocol not in _PROTOCOLS or not separator):
        raise ConfigurationError(
            "batch_config.storage.root must be a local folder (file:///path) or in an object "
            f"store ({', '.join(f'{each}://' for each in _PROTOCOLS[1:])})"
        )
    if separator and not path:
        # `file://` would mean the working directory.
        raise ConfigurationError("batch_config.storage.root must name a folder or a bucket")
    if protocol == "file" and separator and not path.startswith("/"):
        # `file://localhost/out` would mean `localhost/out` in the working directory.
        raise ConfigurationError("batch_config.storage.root must have three slashes: file:///path")
    try:
        fsspec.get_filesystem_class(get_protocol(root))
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"batch_config.storage.root: {error}") from error


def validate_transport(root: str, params: Mapping[str, Any]) -> None:
    """Refuse to send contacts in clear text, except to this computer."""
    _validate_options("batch_config.storage.params", params)
    if not is_local(root):
        _validate_options("The configuration of fsspec", fsspec.config.conf)
        for name, option in _VARIABLES.items():
            _validate_options(name, {option: os.environ.get(name)})


def _validate_options(name: str, options: Any) -> None:  # noqa: ANN401 - any JSON
    text = json.dumps(options, separators=(",", ":"), default=str)
    # Some object stores take one without a scheme for http.
    text = re.sub(r'("endpoint(_url)?":")(?!https?://|")', r"\1http://", text, flags=re.IGNORECASE)
    endpoints = re.findall(r"http://[^\s\";,]*", text, re.IGNORECASE)
    if not all(map(is_safe_url, endpoints)):
        raise ConfigurationError(f"{name} must not have an http endpoint, except on localhost")
    # What is empty, 0 or null turns it off too, but for a `verify` that is null.
    turned_off = re.search(
        r'"use_ssl":(?!true)|"[^"]*(ssl|verify|secure)[^"]*":(false|0|""|\[\]|\{\})'
        r'|"insecure":true|DefaultEndpointsProtocol\s*=\s*http\b',
        text,
        re.IGNORECASE,
    )
    # Not a proxy on this computer.
    is_loopback = re.search(r'endpoint(_url)?("?:"|=)http://', text, re.IGNORECASE)
    if turned_off and (not is_loopback or "https://" in text.lower()):
        raise ConfigurationError(f"{name} must not turn TLS or its verification off")


@contextlib.contextmanager
def open_file(url: str, params: Mapping[str, Any]) -> Iterator[IO[bytes]]:
    """Open a file that appears in the storage only if the block ends without an exception."""
    filesystem, path = fsspec.url_to_fs(url, **params)
    if is_local(url):
        with _open_local(Path(path)) as file:
            yield file
    else:
        # Discards what is unfinished; the SDK's `open` would leave it behind.
        with filesystem.transaction, filesystem.open(path, "wb") as file:
            yield file


def remove_unfinished(url: str) -> None:
    """Remove local files that runs which were killed have left.

    Args:
        url: Folder and beginning of the names of the files, when they are complete.
    """
    if not is_local(url):
        return
    prefix = Path(fsspec.url_to_fs(url)[1])
    pattern = f".{glob.escape(prefix.name)}*{_UNFINISHED}"
    for name in glob.glob(pattern, root_dir=prefix.parent):  # noqa: PTH207 - that of Path can raise
        path = prefix.parent / name
        with contextlib.suppress(OSError), _locked(path):
            path.unlink()


@contextlib.contextmanager
def map_storage_errors(url: str) -> Iterator[None]:
    """Map the errors of storage backends, each of which has its own, to `FatalSyncError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        folder = url.rpartition("/")[0].partition("?")[0]
        raise FatalSyncError(
            f"batch_config: cannot write a batch file to {folder}: {reason}"
        ) from error


@contextlib.contextmanager
def _open_local(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that only its owner can read, under another name until it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with contextlib.ExitStack() as stack:
            # Where files cannot be locked, nobody removes what a kill has left.
            with contextlib.suppress(OSError):
                stack.enter_context(_locked(unfinished))
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file that is being written, which tells it from one that a kill has left.

    Raises:
        OSError: If another process has locked it.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where open files cannot be removed
    except ImportError:
        yield
        return
    # On network file systems, only files that are open for writing can be locked.
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _sync_folder(folder: Path) -> None:
    # The name of a new file is part of its folder.
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
