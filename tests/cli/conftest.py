"""An empty directory, the command line as a function, and a user's files."""

from __future__ import annotations

import numpy as np
import pytest

from nnfast.cli import main


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _compiling_is_no_news(monkeypatch):
    """Whether kernels were compiled before decides nothing here but for test_announcements.py."""
    monkeypatch.setattr("nnfast.backends.numba.announcement.announce", lambda plan, dtype: None)


@pytest.fixture
def nnfast(capsys):
    """Runs a command line; gives its exit code, and what it wrote to stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def flowers(tmp_path):
    """Two classes, a number column and a category column."""
    rng = np.random.default_rng(0)
    lines = ["length,colour,kind"]
    for row in range(120):
        kind = ("iris", "rose")[row % 2]
        lines.append(f"{rng.normal((2, 6)[row % 2], 0.5):.3f},{('blue', 'red', 'white')[row % 3]},{kind}")
    path = tmp_path / "flowers.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def houses(tmp_path):
    """A price in the ten thousands, of an area and a town."""
    rng = np.random.default_rng(1)
    lines = ["area,town,price"]
    for row in range(150):
        area = rng.uniform(40, 200)
        lines.append(f"{area:.2f},{('Bonn', 'Kiel')[row % 2]},{500 * area + 20000 * (row % 2):.2f}")
    path = tmp_path / "houses.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def pictures(tmp_path):
    """Images of 16 x 17 bytes, bright on the left or on the right, with a test part."""
    rng = np.random.default_rng(0)
    y = np.tile([3, 8], 40)
    x = rng.integers(0, 100, (80, 16, 17))
    x[y == 3, :, :8] += 100
    x[y == 8, :, 9:] += 100
    x = x.astype(np.uint8)
    np.savez(tmp_path / "pictures.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return "pictures.npz"
