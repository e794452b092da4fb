"""Run the tap: `python -m tap_sendgrid_contacts`."""

from tap_sendgrid_contacts.cli import main

main()
