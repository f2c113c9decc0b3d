"""How many examples a long property test looks at: all of them in `make campaign`, a quarter in `make test`."""

import os

SHARE = 1 if os.environ.get("SWEEPER_TEST_EXAMPLES") == "all" else 4


def examples(number: int) -> int:
    """Of so many, those of this run."""
    return number // SHARE
