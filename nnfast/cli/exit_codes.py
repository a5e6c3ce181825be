"""What the nnfast command exits with."""

from __future__ import annotations

OK, USAGE, UNAVAILABLE, DIVERGED, INTERRUPTED, READER_GONE = 0, 2, 3, 4, 130, 141  # 128 + the signal's number

EXIT_CODES = (
    "Exit codes: 0; 2 wrong usage or bad input; 3 the backend is unavailable; 4 the run diverged; 130 after Ctrl-C."
)
