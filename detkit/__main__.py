"""`python -m detkit`, and where the `detkit` command begins."""

import sys

INTERRUPTED = 130  # of `ExitCode`, which is not imported yet


def main() -> None:
    """Run the command; Ctrl-C while it is still being imported is no traceback, either."""
    try:
        from detkit.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
