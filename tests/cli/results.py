"""What tests of the command line ask for, and how they read what it printed."""

from __future__ import annotations

import csv
import io
import json
import signal

from nnfast.backends.numpy.program import NumpyProgram

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


def press_ctrl_c_at_step(monkeypatch, number):
    """Amid a training on the NumPy backend; steps are counted from here on, over all networks."""
    run, steps = NumpyProgram.run, iter(range(10**9))

    def interrupted_run(self, *arguments):
        if next(steps) == number:
            signal.raise_signal(signal.SIGINT)
        return run(self, *arguments)

    monkeypatch.setattr("nnfast.training.runner.STRETCH_SECONDS", 0.0)  # a stretch is one step
    monkeypatch.setattr(NumpyProgram, "run", interrupted_run)
