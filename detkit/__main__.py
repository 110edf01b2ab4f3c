"""`python -m detkit`: the same as the `detkit` command."""

from detkit.cli import main

if __name__ == "__main__":
    main()
