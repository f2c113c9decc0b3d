"""`python -m sweeper` is the same program as `sweeper`."""

from sweeper.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
