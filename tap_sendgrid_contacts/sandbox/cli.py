"""The command `sendgrid-sandbox`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click

try:
    from tap_sendgrid_contacts.sandbox.account import Account
    from tap_sendgrid_contacts.sandbox.encoders import FileFormat
    from tap_sendgrid_contacts.sandbox.faults import BY_NAME, FAULTS
    from tap_sendgrid_contacts.sandbox.fields import MAX_CUSTOM_FIELDS
    from tap_sendgrid_contacts.sandbox.server import Settings, serving
except ModuleNotFoundError as missing:
    sys.exit(f"There is no {missing.name}: pip install 'tap-sendgrid-contacts[sandbox]'")

_FAKE_API_KEY = "SG.sandbox-0000000000000.not-a-key-of-anyone-00000000000000000000000"
_NOT_FOUND, _SIGNALLED = 127, 128

Sandbox = tuple[Account, Settings, Callable[[str], None]]


def _fault_table() -> str:
    """The faults for --help; the mark keeps click from wrapping it."""
    lines = ["\b", "Faults, with their default TIMES:"]
    for stage, faults in FAULTS.items():
        lines.append(f"{stage}:")
        lines += [f"  {f.name:<22}{f.times or 'always':>7}  {f.help}" for f in faults]
    return "\n".join(lines)


def _faults(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, int]:
    faults = {}
    for text in given:
        name, colon, times = text.partition(":")
        if name not in BY_NAME:
            message = f"no fault is called {name!r}; see --help"
            raise click.BadParameter(message)
        if colon and not times.isdecimal():
            message = f"{text!r}: TIMES must be a number"
            raise click.BadParameter(message)
        faults[name] = int(times) if colon else BY_NAME[name].times
    return faults


def _choice(name: str, choices: str, text: str) -> Callable[[Any], Any]:
    first, *others = choices.split()
    return click.option(name, type=click.Choice([first, *others]), default=first, help=text)


_COUNT = click.IntRange(1)
_OPTIONS = (
    click.option("--host", default="127.0.0.1", help="Interface to listen on."),
    click.option(
        "--port", default=0, type=click.IntRange(0, 65535), help="Port to listen on; 0: any free."
    ),
    click.option(
        "--contacts", default=1000, type=click.IntRange(0), help="Contacts in the account on day 1."
    ),
    click.option("--parts", default=1, type=_COUNT, help="Minimum number of files per export."),
    click.option(
        "--custom-fields",
        default=5,
        type=click.IntRange(0, MAX_CUSTOM_FIELDS),
        help="Custom fields in the account on day 1.",
    ),
    click.option(
        "--pending-polls", default=1, help="Status requests answered with `pending` per export."
    ),
    click.option("--seed", default=0, help="Seed for the generated contacts."),
    click.option(
        "--day",
        default=1,
        type=_COUNT,
        help="Each later day changes, clears, adds and removes contacts and adds a custom field.",
    ),
    click.option(
        "--edge-cases/--no-edge-cases",
        default=True,
        help="Add awkward values (newlines, quotes, huge numbers, odd Unicode).",
    ),
    click.option("--url-ttl", default=300, help="Lifetime of a signed URL in seconds."),
    click.option("--throttle", type=click.FloatRange(0, min_open=True), help="MB/s per download."),
    click.option(
        "--api-key",
        default=_FAKE_API_KEY,
        envvar="SENDGRID_SANDBOX_API_KEY",
        help="API key that clients must send.",
    ),
    _choice(
        "--compression", "encoded plain-gzip none", "gzip with Content-Encoding, without, or none."
    ),
    click.option("--gzip-members", default=1, type=_COUNT, help="gzip members per file."),
    _choice("--number-format", "number text", "Values of Number fields in JSON."),
    _choice("--date-format", "rfc3339 iso us", "Values of Date fields."),
    _choice(
        "--alternate-emails", "json comma semicolon space", "Several addresses in one CSV cell."
    ),
    _choice("--header-case", "original upper", "Custom field names in the CSV header."),
    _choice(
        "--duplicates",
        "drop keep",
        "A contact in several requested lists: one row, or one row per list.",
    ),
    click.option("--bom", is_flag=True, help="Start each file with a byte order mark."),
    click.option(
        "--fault",
        "faults",
        multiple=True,
        metavar="NAME[:TIMES]",
        callback=_faults,
        help="Inject a fault (listed below). TIMES=0: every time. Repeatable.",
    ),
    click.option("--quiet", is_flag=True, help="Do not log requests."),
)


def _sandbox_options(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def with_settings(*, quiet: bool, **given: Any) -> None:
        def take(*names: str) -> dict[str, Any]:
            return {name: given.pop(name) for name in names}

        account = Account(**take("contacts", "custom_fields", "seed", "day", "edge_cases"))
        settings = take("host", "port", "api_key", "pending_polls", "url_ttl", "throttle", "faults")
        file_format = FileFormat(**take(*FileFormat.__dataclass_fields__))
        sandbox = account, Settings(**settings, file_format=file_format), _quiet if quiet else _log
        try:
            command(sandbox, **given)
        except OSError as wrong:
            raise click.ClickException(str(wrong)) from wrong

    for option in reversed(_OPTIONS):
        with_settings = option(with_settings)
    return with_settings


@click.group(context_settings={"show_default": True}, epilog=_fault_table())
def main() -> None:
    """A local SendGrid with contacts in it, to try the tap on and to break it with."""


@main.command(epilog=_fault_table())
@_sandbox_options
def serve(sandbox: Sandbox) -> None:
    """Serve until interrupted."""

    async def stay() -> None:
        stopped = asyncio.Event()
        async with serving(*sandbox) as url:
            with _signals(lambda _number: stopped.set()):
                account, settings, _ = sandbox
                click.echo(f"sandbox ready: {url} api_key={settings.api_key}")
                for kind, audiences in (("list", account.lists), ("segment", account.segments)):
                    for audience in audiences:
                        click.echo(f"{kind} {audience.id} {audience.name}")
                await stopped.wait()

    asyncio.run(stay())


@main.command(epilog=_fault_table())
@_sandbox_options
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
def run(sandbox: Sandbox, command: tuple[str, ...]) -> None:
    """Serve while a command runs, and pass its exit code on.

    The command finds the sandbox in TAP_SENDGRID_CONTACTS_API_URL and _API_KEY.
    """

    async def accompany() -> int:
        async with serving(*sandbox) as url:
            # A proxy of this machine could not reach it.
            elsewhere = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
            no_proxy = ",".join(filter(None, (elsewhere, "127.0.0.1,localhost")))
            environment = {
                **os.environ,
                "NO_PROXY": no_proxy,
                "no_proxy": no_proxy,
                "TAP_SENDGRID_CONTACTS_API_URL": url,
                "TAP_SENDGRID_CONTACTS_API_KEY": sandbox[1].api_key,
            }
            # In a session of its own, so that a Ctrl-C reaches it once, through here.
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, env=environment, start_new_session=True
                )
            except (FileNotFoundError, PermissionError) as wrong:
                click.echo(f"sendgrid-sandbox: {wrong}", err=True)
                return _NOT_FOUND
            with _signals(lambda number: os.killpg(process.pid, number)):
                return await process.wait()

    code = asyncio.run(accompany())
    sys.exit(code if code >= 0 else _SIGNALLED - code)


@contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = signal.SIGINT, signal.SIGTERM
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _log(line: str) -> None:
    click.echo(line, err=True)


def _quiet(_line: str) -> None:
    pass


if __name__ == "__main__":
    main()
