"""Fit times of nnfast's estimators beside scikit-learn's: the table of docs/benchmarks.md.

    python -m benchmarks.estimators                                   prints it
    python -m benchmarks.estimators --write docs/estimators.md        and writes it
    python -m benchmarks.estimators --datasets digits --repeats 1     a part of it, quickly

Both fit the same data with the same parameters, seed and dtype, in turn (A B A B), in a process of its own for every
row, after one fit that loads what is loaded once; the medians count. With one thread, the process is pinned to one
core and its CPU time is taken; with all, the time on the wall. A row counts only if both ran equally many epochs and
came to equal scores. The first fit in a fresh process, with everything that loads, stands apart. So do predictions, of
the same weights in both, and only where both give the same; the least of several runs counts. Calls on few rows have a
table of their own, by estimator_calls.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SCORES_AGREE = 0.02  # float32 fits may go apart; float64 ones are the same model, which the tests hold them to

# name: (rows of the table's first column, hidden layers, epochs)
DATASETS = {
    "digits": ((100,), 200),
    "adult": ((64,), 5),
    "california": ((64, 64), 20),
    "diamonds": ((64, 64), 5),
    "mnist": ((64,), 5),
    "sparse": ((100,), 5),
    "text": ((100,), 3),
}
# Rows, columns, numbers in a row on average, exponent of how often a column is there: 0 is equally often
SPARSE = {"sparse": (5000, 5000, 10, 0.0), "text": (4000, 20_000, 80, 1.0)}
PREDICTED = (1, 100, 10_000)  # rows at a time
HEADER = (
    "| data | rows x columns | hidden | epochs | dtype | threads | scikit-learn s | nnfast s | times faster "
    "| score, scikit-learn | score, nnfast |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def load(name: str) -> tuple[Any, Any, bool] | None:
    """X float64, y and whether they are classes; None where the file is absent."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if name == "digits":
        X, y = load_digits(return_X_y=True)
        return X / 16, y, True
    if name in SPARSE:
        return *sparse_rows(*SPARSE[name]), True
    file = DATA / {"california": "california_housing.npz"}.get(name, f"{name}.npz")
    if not file.exists():
        return None
    arrays = dict(np.load(file, allow_pickle=False))
    if name == "mnist":
        images = np.concatenate([arrays["x_train"], arrays["x_test"]])
        return images.reshape(len(images), -1) / 255, np.concatenate([arrays["y_train"], arrays["y_test"]]), True
    if name == "adult":
        numeric, category = (
            np.concatenate([arrays[f"{kind}_train"], arrays[f"{kind}_test"]]) for kind in ("num", "cat")
        )
        encoded = OneHotEncoder(sparse_output=False).fit_transform(category)
        X = np.hstack([StandardScaler().fit_transform(numeric.astype(float)), encoded])
        return X, np.concatenate([arrays["y_train"], arrays["y_test"]]), True
    X, y = arrays["x"].astype(float), arrays["y"].astype(float)
    y = np.log(y) if name == "diamonds" else y / 1e5
    return StandardScaler().fit_transform(X), y, False


def sparse_rows(rows: int, columns: int, numbers: int, exponent: float) -> tuple[Any, Any]:
    """CSR rows, and two classes that a line divides. Columns come as words do: the k-th as often as k**-exponent."""
    import numpy as np
    import scipy.sparse as sp

    random = np.random.default_rng(0)
    shares = np.arange(1.0, columns + 1) ** -exponent
    drawn = random.choice(columns, (rows, numbers), p=shares / shares.sum())
    X = sp.csr_matrix((np.ones(drawn.size), drawn.ravel(), np.arange(0, drawn.size + 1, numbers)), (rows, columns))
    X.sum_duplicates()
    X.data = 1 + np.log(X.data)
    line = X @ random.normal(size=columns)
    return X, (line > np.median(line)).astype(int)


def measure(name: str, dtype: str, one_thread: bool, repeats: int) -> dict[str, Any] | None:
    """One row of the table, in this process. None where the data are absent."""
    from sklearn import neural_network
    from sklearn.model_selection import train_test_split

    import nnfast

    loaded = load(name)
    if loaded is None:
        return None
    X, y, is_classes = loaded
    X_train, X_test, y_train, y_test = train_test_split(X.astype(dtype), y, test_size=0.2, random_state=0)
    kind = "MLPClassifier" if is_classes else "MLPRegressor"
    hidden, epochs = DATASETS[name]
    parameters = {"hidden_layer_sizes": hidden, "max_iter": epochs, "random_state": 0}
    clock = time.process_time if one_thread else time.perf_counter
    seconds: dict[str, list[float]] = {"sklearn": [], "nnfast": []}
    scores, n_iter = {}, {}
    kinds = {"sklearn": getattr(neural_network, kind), "nnfast": getattr(nnfast, kind)}
    warnings.simplefilter("ignore")  # that so few epochs do not converge
    for estimator in kinds.values():
        estimator(**{**parameters, "max_iter": 1}).fit(X_train[:1000], y_train[:1000])
    theirs: Any = None
    for _ in range(repeats):
        for library, estimator in kinds.items():
            fitted = estimator(**parameters)
            start = clock()
            fitted.fit(X_train, y_train)
            theirs = fitted if library == "sklearn" else theirs
            seconds[library].append(clock() - start)
            scores[library], n_iter[library] = float(fitted.score(X_test, y_test)), int(fitted.n_iter_)
    if abs(scores["sklearn"] - scores["nnfast"]) > SCORES_AGREE or (
        n_iter["sklearn"] != n_iter["nnfast"] and dtype == "float64"
    ):
        raise SystemExit(f"{name} {dtype}: different models: scores {scores}, epochs {n_iter}")
    predictions = predict_seconds(theirs, type(fitted).from_sklearn(theirs), X_train) if one_thread else None
    # float32 runs may stop at different epochs: then it is the epoch that is compared
    per_epoch = {library: statistics.median(taken) / n_iter[library] for library, taken in seconds.items()}
    return {
        "shape": X_train.shape,
        "epochs": n_iter["sklearn"],
        "seconds": {library: one * n_iter["sklearn"] for library, one in per_epoch.items()},
        "scores": scores,
        "predictions": predictions,
    }


def predict_seconds(theirs: Any, ours: Any, X: Any) -> list[dict[str, float]]:
    """CPU seconds of predict for each of PREDICTED rows of X, or as many as there are, by estimators of one model."""
    import numpy as np

    methods = {"sklearn": theirs.predict, "nnfast": ours.predict}
    taken = []
    for rows in PREDICTED:
        part = X[:rows]
        agree = np.isclose(theirs.predict(part), ours.predict(part), rtol=1e-3, atol=1e-3)
        if agree.mean() < 0.999:
            raise SystemExit(f"{rows} rows: predictions of the same weights differ")
        repeats = max(3, 1000 // rows)
        least = dict.fromkeys(methods, float("inf"))
        for _ in range(7):
            for library, predict in methods.items():
                start = time.process_time()
                for _ in range(repeats):
                    predict(part)
                least[library] = min(least[library], (time.process_time() - start) / repeats)
        taken.append(least)
    return taken


def first_fit(library: str) -> float:
    """Seconds of the first fit, on digits, of a process that has imported NumPy and scikit-learn's data sets alone."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    if library == "sklearn":
        from sklearn.neural_network import MLPClassifier
    else:
        from nnfast import MLPClassifier
    MLPClassifier(random_state=0, max_iter=20).fit(X / 16, y)
    return time.perf_counter() - start


def small_calls(calls: int = 200) -> str:
    """The table of calls on few rows."""
    from benchmarks.estimator_calls import table

    return table(calls)


def in_a_process(call: str, one_thread: bool, **environment: str) -> Any:
    """What an expression of this module gives in a fresh process, pinned to one core if it has one thread."""
    environment = {**os.environ, **environment}
    pin: Callable[[], None] | None = None
    if one_thread:
        environment |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        if hasattr(os, "sched_setaffinity"):
            core = max(os.sched_getaffinity(0))

            def pin() -> None:
                os.sched_setaffinity(0, {core})

    code = f"import json; from benchmarks import estimators; print(json.dumps(estimators.{call}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        preexec_fn=pin,
        cwd=Path(__file__).resolve().parents[1],
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table(datasets: list[str], dtypes: list[str], repeats: int) -> str:
    """The Markdown of both tables, printed as it comes."""
    from nnfast.benchmarking.bench import environment

    facts = environment()
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores; {', '.join(_versions())}. Batches of 200, Adam, seed 0; four fifths "
        f"of the rows to fit, one to score. Median of {repeats}, in turn; one thread: CPU seconds, pinned to a core.",
        "",
        HEADER,
    ]
    predictions = [
        "",
        "Predictions, one thread: microseconds of a call of predict for each number of rows, by "
        "scikit-learn / nnfast with the same weights.",
        "",
        "| data | dtype |" + "".join(f" {rows:,} row{'s' * (rows > 1)} |" for rows in PREDICTED),
        "|---|---|" + "--:|" * len(PREDICTED),
    ]
    print("\n".join(lines), flush=True)
    for name in datasets:
        for dtype in dtypes:
            for one_thread in (True, False):
                row = in_a_process(f"measure({name!r}, {dtype!r}, {one_thread}, {repeats})", one_thread)
                if row is None:
                    print(f"{name} is skipped: there is no file of it in {DATA}", file=sys.stderr)
                    continue
                ours, theirs = row["seconds"]["nnfast"], row["seconds"]["sklearn"]
                rows, columns = row["shape"]
                hidden = "-".join(map(str, DATASETS[name][0]))
                lines.append(
                    f"| {name} | {rows:,} x {columns} | {hidden} | {row['epochs']} | {dtype} "
                    f"| {'one' if one_thread else 'all'} | {theirs:.3g} | {ours:.3g} | {theirs / ours:.2f} "
                    f"| {row['scores']['sklearn']:.4f} | {row['scores']['nnfast']:.4f} |"
                )
                print(lines[-1], flush=True)
                if one_thread:
                    times = [f"{1e6 * one['sklearn']:.0f} / {1e6 * one['nnfast']:.0f}" for one in row["predictions"]]
                    predictions.append(f"| {name} | {dtype} | {' | '.join(times)} |")
    predictions += ["", in_a_process("small_calls()", True)]
    print("\n".join(predictions), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cold = in_a_process("first_fit('nnfast')", False, NNFAST_CACHE_DIR=folder)
        warm = [in_a_process("first_fit('nnfast')", False, NNFAST_CACHE_DIR=folder) for _ in range(repeats)]
    theirs = [in_a_process("first_fit('sklearn')", False) for _ in range(repeats)]
    first = [
        "",
        "The first fit in a fresh process, import of the estimator included (digits, 20 epochs, all threads):",
        "",
        "| | seconds |\n|---|---|",
        f"| scikit-learn | {statistics.median(theirs):.2f} |",
        f"| nnfast | {statistics.median(warm):.2f} |",
        f"| nnfast, the first time on this machine: kernels are compiled | {cold:.1f} |",
    ]
    print("\n".join(first))
    return "\n".join([*lines, *predictions, *first, ""])


def _versions() -> list[str]:
    from importlib.metadata import version

    return [f"{package} {version(package)}" for package in ("nnfast", "scikit-learn", "numpy", "scipy", "numba")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the tables to this Markdown file")
    arguments = parser.parse_args()
    text = table(arguments.datasets, arguments.dtypes, arguments.repeats)
    if arguments.write:
        arguments.write.write_text(f"# Fit times of the estimators\n\n{text}")


if __name__ == "__main__":
    main()
