"""Print what a SendGrid account says about the open questions: `python -m tests.live`."""

from __future__ import annotations

import os
import sys

from tests.live.probe import ProbeError, observe
from tests.live.questions import Answer, answer_all, format_table


def ask_account() -> dict[str, Answer]:
    """Return the answers of the account of SENDGRID_API_KEY."""
    url = os.environ.get("SENDGRID_API_URL", "https://api.sendgrid.com")
    return answer_all(observe(url, os.environ["SENDGRID_API_KEY"]))


def main() -> None:
    """Print the table."""
    if not os.environ.get("SENDGRID_API_KEY"):
        sys.exit("SENDGRID_API_KEY is not set")
    try:
        sys.stdout.write(format_table(ask_account()))
    except ProbeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
