"""The command `sendgrid-sandbox`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from ipaddress import ip_address
from typing import Any

import click

from sendgrid_sandbox.account import Account
from sendgrid_sandbox.faults import FAULTS, STAGE_TITLES, Faults, parse_fault
from sendgrid_sandbox.fields import MAX_CUSTOM_FIELDS
from sendgrid_sandbox.server import run_server
from sendgrid_sandbox.settings import FileFormat, Settings

_FAKE_API_KEY = "SG.sandbox-0000000000000.not-a-key-of-anyone-00000000000000000000000"
_EXIT_COMMAND_NOT_FOUND, _EXIT_SIGNAL_BASE = 127, 128

ServerArguments = tuple[Account, Settings, Faults, Callable[[str], None]]


def _fault_table() -> str:
    r"""Return the table of faults for --help; `\b` keeps click from wrapping it."""
    lines = ["\b", "Faults, with their default TIMES:"]
    for stage, faults in FAULTS.items():
        lines.append(f"{STAGE_TITLES[stage]}:")
        lines += [f"  {f.name:<22}{f.times or 'always':>7}  {f.help}" for f in faults]
    return "\n".join(lines)


def _parse_faults(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    try:
        return dict(map(parse_fault, values))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


# Each default is where the sandbox uses it: an option only repeats it.
_DEFAULTS = {
    name: parameter.default
    for owner in (Account, FileFormat, Settings)
    for name, parameter in signature(owner).parameters.items()
}


def _option(name: str, text: str, **settings: Any) -> Callable[[Any], Any]:
    """Return an option whose default is that of the parameter with the same name."""
    parameter = name.partition("/")[0].removeprefix("--").replace("-", "_")
    return click.option(name, default=_DEFAULTS[parameter], help=text, **settings)


def _choice(name: str, choices: str, text: str) -> Callable[[Any], Any]:
    return _option(name, text, type=click.Choice(choices.split()))


_COUNT = click.IntRange(1)
_OPTIONS = (
    _option("--host", "Interface to listen on."),
    _option("--port", "Port to listen on; 0: any free.", type=click.IntRange(0, 65535)),
    click.option(
        "--api-key",
        default=_FAKE_API_KEY,
        envvar="SENDGRID_SANDBOX_API_KEY",
        help="API key that clients must send.",
    ),
    _option("--contacts", "Contacts in the account on day 1.", type=click.IntRange(0)),
    _option(
        "--custom-fields",
        "Custom fields in the account on day 1.",
        type=click.IntRange(0, MAX_CUSTOM_FIELDS),
    ),
    _option("--seed", "Seed for the generated contacts."),
    _option(
        "--day",
        "Each later day changes, clears, adds and removes contacts and adds a custom field.",
        type=_COUNT,
    ),
    _option(
        "--edge-cases/--no-edge-cases",
        "Add awkward values (newlines, quotes, huge numbers, odd Unicode).",
    ),
    _option("--audiences/--no-audiences", "Create lists and segments."),
    _choice(
        "--field-changes",
        "none rename retype",
        "Custom fields: renamed, with the same ids; or deleted and created again with another "
        "type.",
    ),
    _option("--parts", "Minimum number of files per export.", type=_COUNT),
    _option("--pending-polls", "Status requests answered with `pending` per export."),
    _option("--url-ttl", "Lifetime of a signed URL in seconds."),
    _option("--throttle", "MB/s per download.", type=click.FloatRange(0, min_open=True)),
    _choice(
        "--compression",
        "x-gzip gzip plain-gzip none",
        "Content-Encoding of files; plain-gzip: gzip without the header.",
    ),
    _option("--gzip-members", "gzip members per file.", type=_COUNT),
    _choice("--number-format", "number text", "Number fields: JSON numbers, or text."),
    _choice(
        "--date-format",
        "rfc3339 iso us go epoch",
        "Date fields; all but iso and us apply to created_at and updated_at, too.",
    ),
    _choice("--alternate-emails", "json comma", "Several addresses in one CSV cell."),
    _choice("--header-case", "original upper", "Custom field names in the CSV header."),
    _option("--bom", "Start each file with a byte order mark.", is_flag=True),
    _choice("--part-headers", "all first", "CSV header in all parts, or in the first alone."),
    _choice(
        "--duplicates",
        "drop keep",
        "A contact in several requested lists: one row, or one row per list.",
    ),
    _choice(
        "--empty-export",
        "header file none",
        "Export without contacts: files with a CSV header alone, empty files, or no files.",
    ),
    _option("--null-collections", "API sends null instead of empty collections.", is_flag=True),
    click.option(
        "--fault",
        "faults",
        multiple=True,
        metavar="NAME[:TIMES]",
        callback=_parse_faults,
        help="Inject a fault (listed below). TIMES=0: every time. Repeatable.",
    ),
    click.option("--quiet", is_flag=True, help="Do not log requests."),
)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def sandbox_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a sandbox to a command, and pass it the sandbox they describe."""

    @wraps(command)
    def wrapper(*, quiet: bool, **options: Any) -> None:
        def pop_options(owner: Callable[..., object]) -> dict[str, Any]:
            names = signature(owner).parameters.keys() & options.keys()
            return {name: options.pop(name) for name in names}

        account = Account(**pop_options(Account))
        file_format = FileFormat(**pop_options(FileFormat))
        settings = Settings(**pop_options(Settings), file_format=file_format)
        if not _is_loopback(settings.host):
            _log(
                f"warning: --host {settings.host}: other machines can reach this API, which is "
                "not encrypted and has an API key that everybody knows, unless you set one"
            )
        try:
            log = _log_nothing if quiet else _log
            command((account, settings, Faults(settings.faults, log), log), **options)
        except OSError as error:
            raise click.ClickException(str(error)) from error

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


@click.group(
    context_settings={"show_default": True},
    epilog="Options and faults are listed by `serve --help` and `run --help`.",
)
@click.version_option(package_name="sendgrid-sandbox")
def main() -> None:
    """A local SendGrid with generated contacts, to try and to test the tap."""


@main.command(epilog=_fault_table())
@sandbox_options
def serve(sandbox: ServerArguments) -> None:
    """Serve until interrupted."""
    account, settings, *_ = sandbox

    async def serve_until_signal() -> None:
        stopped = asyncio.Event()
        async with run_server(*sandbox) as url:
            with _handle_signals(lambda _number: stopped.set()):
                click.echo(f"sandbox ready: {url} api_key={settings.api_key}")
                for kind, audiences in (("list", account.lists), ("segment", account.segments)):
                    for audience in audiences:
                        click.echo(f"{kind} {audience.id} {audience.name}")
                await stopped.wait()

    asyncio.run(serve_until_signal())


@main.command(epilog=_fault_table())
@sandbox_options
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
def run(sandbox: ServerArguments, command: tuple[str, ...]) -> None:
    """Serve while a command runs, and exit with its exit code.

    The command gets TAP_SENDGRID_CONTACTS_API_URL and TAP_SENDGRID_CONTACTS_API_KEY in its
    environment.
    """

    async def run_command() -> int:
        async with run_server(*sandbox) as url:
            # A proxy cannot reach the loopback interface of this host.
            inherited = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
            no_proxy = ",".join(filter(None, (inherited, "127.0.0.1,localhost")))
            environment = {
                **os.environ,
                "NO_PROXY": no_proxy,
                "no_proxy": no_proxy,
                "TAP_SENDGRID_CONTACTS_API_URL": url,
                "TAP_SENDGRID_CONTACTS_API_KEY": sandbox[1].api_key,
            }
            received: asyncio.Queue[int] = asyncio.Queue()
            with _handle_signals(received.put_nowait):
                # A session of its own: Ctrl-C then reaches the command once, forwarded from here.
                try:
                    process = await asyncio.create_subprocess_exec(
                        *command, env=environment, start_new_session=True
                    )
                except (FileNotFoundError, PermissionError) as error:
                    click.echo(f"sendgrid-sandbox: {error}", err=True)
                    return _EXIT_COMMAND_NOT_FOUND
                forwarding = asyncio.create_task(_forward_signals(received, process.pid))
                try:
                    return await process.wait()
                finally:
                    forwarding.cancel()

    code = asyncio.run(run_command())
    sys.exit(code if code >= 0 else _EXIT_SIGNAL_BASE - code)


async def _forward_signals(received: asyncio.Queue[int], process_group: int) -> None:
    while True:
        os.killpg(process_group, await received.get())


@contextmanager
def _handle_signals(handler: Callable[[int], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = signal.SIGINT, signal.SIGTERM
    for number in numbers:
        loop.add_signal_handler(number, handler, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _log(line: str) -> None:
    click.echo(line, err=True)


def _log_nothing(_line: str) -> None:
    pass
