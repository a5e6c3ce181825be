"""A step on sparse rows, read by the first layer itself or gathered into a dense batch: for kernels/README.md.

    OPENBLAS_NUM_THREADS=1 taskset -c 0 python -m benchmarks.sparse_rows

One thread, Adam with alpha 1e-4, batches of 200; processor time of a step, the least of several epochs, both ways in
turn. Both ways must leave the same bits.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp

from nnfast import Dense, Network, get_backend
from nnfast.backends import Program, Source
from nnfast.formulas.losses import get_loss
from nnfast.formulas.optimizers import adam
from nnfast.kernels.cpu import sparse
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe

ROWS, BATCH, EPOCHS = 600, 200, 5
SHAPES = ((500, 64), (2000, 32), (2000, 256), (5000, 100))
DENSITIES = (0.002, 0.01, 0.05, 0.1, 0.2, 0.3)


def make_program(network: Network, source: Source, dtype: str) -> Program:
    plan = make_plan(network, BATCH)
    recipe = Recipe(get_loss("cross_entropy"), adam(), np.dtype(dtype), alpha=1e-4)
    program = get_backend("numba", 1).compile(plan, recipe)
    program.parameters = plan.initial_parameters(0)
    program.bind(source)
    return program


def steps(inputs: int, units: int, density: float, dtype: str) -> tuple[float, float]:
    """Microseconds of a step: gathered, itself."""
    network = Network(inputs, [Dense(units, "relu"), Dense(3, "softmax")])
    X = sp.random(ROWS, inputs, density, format="csr", random_state=0, dtype=dtype)
    source = Source(X, np.arange(ROWS) % 3)
    bounds = np.arange(0, ROWS + 1, BATCH)
    rates = np.full(len(bounds) - 1, 1e-3)
    ways = {-1.0: make_program(network, source, dtype), 1.0: make_program(network, source, dtype)}
    best = dict.fromkeys(ways, np.inf)
    for epoch in range(EPOCHS):
        for sparse.DENSEST, program in ways.items():
            start = time.process_time()
            program.run(np.arange(ROWS), bounds, rates, epoch * len(rates))
            best[sparse.DENSEST] = min(best[sparse.DENSEST], (time.process_time() - start) / len(rates))
    one, other = (program.parameters for program in ways.values())
    if not np.array_equal(one, other):
        raise SystemExit(f"{network}, {density:.1%} dense, {dtype}: the two ways differ")
    return best[-1.0] * 1e6, best[1.0] * 1e6


def main() -> None:
    print("| inputs x units | dtype |" + "".join(f" {density:.1%} |" for density in DENSITIES))
    print("|---|---|" + "--:|" * len(DENSITIES))
    for inputs, units in SHAPES:
        for dtype in ("float32", "float64"):
            found = [steps(inputs, units, density, dtype) for density in DENSITIES]
            cells = "".join(f" {gathered:.0f} / {itself:.0f} |" for gathered, itself in found)
            print(f"| {inputs} x {units} | {dtype} |{cells}", flush=True)


if __name__ == "__main__":
    main()
