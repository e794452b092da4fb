"""Run `python -m tap_sendgrid_contacts.sandbox`."""

from tap_sendgrid_contacts.sandbox.cli import main

if __name__ == "__main__":
    main()
