"""python -m benchmarks.many: the tables that were asked for, with the machine's facts above them."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterable

from nnfast.backends.environment import installed_version
from nnfast.benchmarking.bench import environment

from . import __doc__
from .memory import memory
from .networks import networks
from .search import search

PACKAGES = ("nnfast", "scikit-learn", "joblib", "numpy", "numba", "jax", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("networks", "search", "memory")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these tables alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000, help="of the data set whose memory is measured")
    arguments = parser.parse_args()
    tables: dict[str, Callable[[], Iterable[str]]] = {
        "networks": lambda: networks(arguments.repeats),
        "search": lambda: search(arguments.repeats),
        "memory": lambda: memory(arguments.megabytes),
    }
    warnings.simplefilter("ignore")  # that so few epochs do not converge
    os.environ["PYTHONWARNINGS"] = "ignore"  # in joblib's processes
    facts = environment()
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed_version(name)))
    print(f"{facts['cpu']}, {facts['cores']} cores; {versions}. Median of {arguments.repeats}, in turn.", flush=True)
    for name in arguments.only:
        before = os.getloadavg()[0]
        print(flush=True)
        for line in tables[name]():
            print(line, flush=True)
        print(f"\nLoad before {before:.1f}, after {os.getloadavg()[0]:.1f}.", flush=True)


if __name__ == "__main__":
    main()
