"""Run `python -m sendgrid_sandbox`."""

from sendgrid_sandbox.cli import main

if __name__ == "__main__":
    main()
