"""The SDK's own tests of a tap."""

from __future__ import annotations

import atexit
from contextlib import ExitStack

from singer_sdk.testing import SuiteConfig, get_tap_test_class

from tap_sendgrid_contacts.tap import TapSendGridContacts
from tests.conftest import serve

# The class makes its tap when it is defined: the sandbox has to be up by then.
_stack = ExitStack()
atexit.register(_stack.close)
_sandbox = _stack.enter_context(serve("--contacts", "50", "--pending-polls", "0"))

TestSingerSdk = get_tap_test_class(
    TapSendGridContacts,
    config={"api_url": _sandbox.url, "api_key": _sandbox.api_key, "poll_interval": 1},
    suite_config=SuiteConfig(max_records_limit=None),
)
