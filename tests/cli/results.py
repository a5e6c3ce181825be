"""What tests of the command line ask for, and how they read what it printed."""

from __future__ import annotations

import csv
import io
import json

FAST = ("--backend", "numpy", "--epochs", "2", "--hidden", "8")
OF_PICTURES = ("--backend", "numpy", "--task", "classification")


def read_csv(text):
    return list(csv.reader(io.StringIO(text)))


def last_json(out):
    return json.loads(out.splitlines()[-1])


def assert_refused(result, *phrases, code=2, command="train"):
    """One line on stderr that says why, nothing on stdout."""
    got, out, err = result
    assert got == code, err
    assert out == ""
    assert err.startswith(f"nnfast {command}: error: ")
    assert err.count("\n") == 1
    for phrase in phrases:
        assert phrase in err
