"""`python -m sweeper` is the same program as `sweeper`."""

from sweeper.commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
