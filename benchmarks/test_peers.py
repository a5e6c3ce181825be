"""python -m benchmarks.peers: no figure of other work, none missing, and all of them written down.

Nothing is measured here: every peer trains a few steps. Those that are not installed are skipped.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import HOME, PEERS, Entry, tables
from benchmarks.peers.__main__ import main
from benchmarks.peers.engine import Engine
from benchmarks.peers.instructions import SOFTWARE, TASK_CLOCK, Counter, NoCounterError
from benchmarks.peers.measure import TOLERANCES, DifferentResultsError, measure, stream_share, verify
from benchmarks.peers.peer import cut, epoch_losses, sample
from benchmarks.peers.roofline import Peak, of_step
from benchmarks.peers.workers import Cannot, Server, Trained, Worker, WorkerError
from nnfast.backends import get_backend
from nnfast.backends.cuda import CudaBackend
from nnfast.backends.numpy.program import NumpyProgram
from nnfast.benchmarking.bench import kink_distances, rows_of
from nnfast.benchmarking.workloads import WORKLOADS, get_workload
from tests.cuda import gxx
from tests.cuda.twin import make_twin


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """The command on nnfast and scikit-learn, in a few steps: exit code, output and error."""

    def call(*arguments: str, peers: str = "nnfast,scikit-learn") -> tuple[int, str, str]:
        code = main(["--small", "--threads", "1", "--workloads", "xor,digits", "--peers", peers, *arguments])
        return code, *capsys.readouterr()

    return call


def test_the_command_prints_and_writes_every_figure(run: Any, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("report.json", "page.md", "chart.png", "chart.svg")}
    files["page.md"].write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    code, output, error = run(
        "--json", str(files["report.json"]), "--write", str(files["page.md"]), "--chart", str(files["chart.png"])
    )
    assert (code, error) == (0, "")
    report = json.loads(files["report.json"].read_text())
    (mode,) = report["modes"]
    assert mode["threads"] == 1
    assert [row["name"] for row in mode["workloads"]] == ["xor", "digits"]
    xor, digits = mode["workloads"]
    assert list(xor["results"]) == [HOME]
    assert "sum_squared_error" in xor["cannot"]["scikit-learn"]
    assert xor["times_best_peer"] is None
    assert list(digits["results"]) == ["scikit-learn", HOME]
    for result in digits["results"].values():
        assert result["samples_per_second"] > 0
        assert result["first_call_seconds"] > 0
        assert result["of_product"] > 0
        assert all(result["differences"][what] <= limit for what, limit in TOLERANCES.items())
    assert output.count("\nxor ") == output.count("\ndigits ") == 1
    page = files["page.md"].read_text()
    assert page.startswith(f"before\n{tables.BEGIN}\n\n")
    assert page.endswith(f"\n\n{tables.END}\nafter\n")
    assert "old" not in page
    assert f"{digits['results'][HOME]['samples_per_second']:,.0f}" in page
    assert files["chart.png"].read_bytes().startswith(b"\x89PNG")

    # What was measured once can be drawn and written again
    assert (
        main(
            ["--read", str(files["report.json"]), "--chart", str(files["chart.svg"]), "--write", str(files["page.md"])]
        )
        == 0
    )
    assert "<svg" in files["chart.svg"].read_text()
    assert files["page.md"].read_text() == page


def test_a_page_without_a_place_for_the_tables_is_refused_before_anything_is_measured(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine")
    with pytest.raises(SystemExit) as ended:
        run("--write", str(page))
    assert ended.value.code == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert "page.md has no place for the tables" in error
    assert page.read_text() == "mine"


def test_a_missing_library_is_a_remark(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "torch", Entry("PyTorch", "pytorch", "Eager", "no_such_library", "torch"))
    monkeypatch.setitem(PEERS, "jax", Entry("JAX", "jax_scan", "Scan", "json", "jax", programs=("no-such-program",)))
    code, output, error = run("--workloads", "digits", peers="nnfast,torch,jax")
    assert (code, error) == (0, "")
    assert "PyTorch is not installed: left out; pip install torch\n" in output
    assert "JAX needs no-such-program, which is not on the path: left out\n" in output
    assert "nnfast  " in output


@pytest.mark.parametrize("name", [name for name, entry in PEERS.items() if "cpu" in entry.devices])
@pytest.mark.parametrize("workload", ["xor", "tab64", "simplechains"])
def test_a_peer_does_the_same_work(name: str, workload: str) -> None:
    """On one sigmoid output, on two classes with a ragged last batch, and on a full batch of numbers."""
    if reason := PEERS[name].missing():
        pytest.skip(reason)
    small = cut(get_workload(workload))
    with Worker(name, small, 1, None, None) as worker:
        sampled = worker.ask("sample")
        if isinstance(sampled, Cannot):
            assert (name, workload) == ("scikit-learn", "xor"), sampled.reason
            return
        verify(name, sampled[1], worker.ask("prepare"))


def results_of(workload: Any) -> Trained:
    peer = Engine(workload, 1)
    peer.reset()
    peer.train()
    return Trained(workload, workload.recipe(), epoch_losses(workload, peer.losses()), peer.parameters())


@pytest.mark.parametrize("name", ["digits", "tab64", "mnist512"])
def test_the_verified_steps_lie_far_from_kinks(name: str) -> None:
    workload = get_workload(name)
    verified = sample(workload, workload.recipe())
    order, bounds = verified.stretch()
    assert np.array_equal(bounds, cut(workload).stretch()[1])
    program = get_backend("numpy").compile(verified.plan(), verified.recipe())
    program.parameters = verified.initial_parameters()
    assert isinstance(program, NumpyProgram)
    assert kink_distances(program, rows_of(verified.source(), order[: bounds[1]])).min() > 1e-3

    class Perturbed(type(verified)):  # type: ignore[misc]
        def initial_parameters(self) -> Any:
            parameters = super().initial_parameters()
            noise = np.random.default_rng(1).uniform(-60, 60, parameters.shape) * np.finfo(np.float32).eps
            return parameters * (1 + noise).astype(np.float32)

    trained = dataclasses.replace(results_of(Perturbed(**vars(verified))), workload=verified)
    verify("sixty roundings", trained, trained)


def test_a_peer_that_did_other_work_is_not_timed() -> None:
    workload = cut(get_workload("digits"))
    good = results_of(workload)
    verify("nnfast", good, good)
    moved = dataclasses.replace(good, parameters=good.parameters * np.float32(1.01))
    for what, first_steps, whole in [
        ("change", moved, good),
        ("losses", good, dataclasses.replace(good, losses=good.losses * 1.01)),
        ("losses", good, dataclasses.replace(good, losses=good.losses * np.nan)),
        ("final loss", good, dataclasses.replace(good, parameters=good.parameters * np.float32(1.5))),
    ]:
        with pytest.raises(DifferentResultsError, match=f"other and nnfast's reference differ in their {what}"):
            verify("other", first_steps, whole)


def break_worker(monkeypatch: pytest.MonkeyPatch, name: str, at: str, how: str) -> None:
    """Let one peer's worker raise or end when it is asked for something."""
    ask = Worker.ask

    def broken(self: Worker, what: str, *arguments: Any) -> Any:
        if (self._process.name, what) == (name, at):
            if how == "ends":
                self._process.kill()
                self._process.join()
            else:
                what = "no_such_question"
        return ask(self, what, *arguments)

    monkeypatch.setattr(Worker, "ask", broken)


@pytest.mark.parametrize(
    ("at", "how", "reason"),
    [
        (
            "sample",
            "raises",
            "scikit-learn: 'no_such_question' failed: AttributeError: 'Server' object has no attribute",
        ),
        ("seconds", "ends", "scikit-learn: the process ended with -9 at 'seconds'"),
        (None, None, "scikit-learn and nnfast's reference differ in their losses by 0.01, more than the 0.001"),
    ],
    ids=["raises", "ends", "other work"],
)
def test_a_peer_that_fails_is_a_cell_of_the_table(
    at: str, how: str, reason: str, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(name: str, first_steps: Trained, whole: Trained) -> dict[str, float]:
        factor = 1.01 if name == "scikit-learn" and at is None else 1
        return verify(name, first_steps, dataclasses.replace(whole, losses=factor * whole.losses))

    monkeypatch.setattr("benchmarks.peers.measure.verify", wrong)
    break_worker(monkeypatch, "scikit-learn", at, how)
    files = {name: tmp_path / name for name in ("report.json", "page.md", "chart.svg")}
    files["page.md"].write_text(f"{tables.BEGIN}\n{tables.END}\n")
    code, output, error = run(
        "--workloads", "digits", "--json", str(files["report.json"]), "--write", str(files["page.md"]),
        "--chart", str(files["chart.svg"]),
    )  # fmt: skip
    assert code == 1
    assert error.startswith(f"benchmarks.peers: digits: scikit-learn: {reason}")
    assert ("Traceback" in error) == (how == "raises")
    assert re.search(rf"(?m)^ +scikit-learn +- failed: {re.escape(reason)}", output)
    (row,) = json.loads(files["report.json"].read_text())["modes"][0]["workloads"]
    assert list(row["results"]) == [HOME]
    assert row["results"][HOME]["samples_per_second"] > 0
    assert row["failed"]["scikit-learn"]["reason"].startswith(reason)
    page = files["page.md"].read_text()
    assert "| failed | " in page
    assert f"- digits: scikit-learn failed: {reason}" in page
    assert "<svg" in files["chart.svg"].read_text()


def test_without_the_large_product_only_the_share_of_it_is_missing(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_worker(monkeypatch, "blas", "prepare_product", "ends")
    file = tmp_path / "page.md"
    file.write_text(f"{tables.BEGIN}\n{tables.END}\n")
    code, output, error = run("--workloads", "xor", "--write", str(file), peers="nnfast")
    assert code == 1
    assert error == "benchmarks.peers: xor: BLAS's product: blas: the process ended with -9 at 'prepare_product'\n"
    assert output.count("\nxor ") == 1
    assert "of BLAS's large product" not in file.read_text()


def test_where_all_fail_nothing_is_drawn(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(TOLERANCES, "losses", -1.0)
    code, output, error = run("--chart", str(tmp_path / "chart.svg"), peers="nnfast")
    assert code == 1
    assert [line.split(": ")[1] for line in error.splitlines()] == ["xor", "digits", "--chart"]
    assert re.search(r"(?m)^digits +nnfast +- failed: ", output)


def test_an_end_of_the_run_loses_no_row(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(workload: Any, *arguments: Any) -> dict[str, Any]:
        if workload.name == "digits":
            raise KeyboardInterrupt
        return measure(workload, *arguments)

    monkeypatch.setattr("benchmarks.peers.__main__.measure", interrupted)
    file = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        run("--json", str(file), peers="nnfast")
    ((row,),) = (mode["workloads"] for mode in json.loads(file.read_text())["modes"])
    assert row["results"][HOME]["samples_per_second"] > 0


def test_peers_are_timed_in_turn_and_only_after_all_were_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = Worker.ask

    def recorded(self: Worker, what: str, *arguments: Any) -> Any:
        asked.append(what)
        return ask(self, what, *arguments)

    monkeypatch.setattr(Worker, "ask", recorded)
    row = measure(cut(get_workload("digits")), ["scikit-learn", HOME], 1, 2, None, None)
    assert asked[:4] == ["sample", "prepare"] * 2
    assert "seconds" not in asked[: asked.index("calls_for")]
    assert asked.count("seconds") == 2 * 3  # two rounds of two peers and BLAS
    rates = {name: result["samples_per_second"] for name, result in row["results"].items()}
    assert row["times_best_peer"] == rates[HOME] / rates["scikit-learn"]


def test_a_worker_that_fails_says_why() -> None:
    with (
        Worker("nnfast", cut(get_workload("xor")), 1, None, None) as worker,
        pytest.raises(WorkerError, match=r"nnfast: 'seconds' failed: AttributeError: .*\nTraceback"),
    ):
        worker.ask("seconds", 1)  # of nothing: prepare() was left out


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_cut_workload_has_a_few_steps_and_the_ragged_one(name: str) -> None:
    workload = get_workload(name)
    small = cut(workload)
    assert small.steps == 5
    last = np.diff(small.stretch()[1])[-1]
    assert last == (workload.rows % workload.batch_size or workload.batch_size)


def test_an_epoch_s_loss_is_the_mean_over_its_rows() -> None:
    workload = dataclasses.replace(get_workload("digits"), rows=5, batch_size=2, epochs=2)
    assert np.array_equal(epoch_losses(workload, np.array([1, 2, 5, 0, 0, 10])), [11 / 5, 2])
    assert np.array_equal(epoch_losses(workload, np.array([3, 4])), [3, 4]), "epochs' own losses stay"


# On a GPU, as far as that can be tried without one


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where "cuda" is, for this process, the tests' stand-in for CuPy."""
    if reason := gxx.available():
        pytest.skip(reason)
    xp = make_twin()
    monkeypatch.setitem(sys.modules, "cupy", xp)
    monkeypatch.setattr("nnfast.backends.cuda.unavailable_reason", lambda: None)
    monkeypatch.setattr("nnfast.backends.cuda.create", lambda threads, **options: CudaBackend(**options, xp=xp))
    return xp


def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnfast.backends.cuda.unavailable_reason", lambda: "there is no CUDA device")
    assert main(["--device", "cuda"]) == 1
    assert capsys.readouterr() == ("", "benchmarks.peers: --device cuda: there is no CUDA device\n")


@pytest.mark.parametrize("name", ["numpy", "numba", HOME])
def test_nnfast_s_peers_of_a_gpu_do_the_same_work(emulated_gpu: Any, name: str) -> None:
    server = Server(name, cut(get_workload("digits"), steps=3), 1, "cuda")
    _, first_steps = server.sample()
    verify(name, first_steps, server.prepare())
    assert server.seconds(1) > 0
    timed = server.stream_seconds()
    assert (timed is None) == (name != HOME)
    if timed:
        assert 0 < stream_share(name, *timed) <= 1.05
        # The order, the steps' values and the losses: what is timed ends with these on the host
        emulated_gpu.counters.reset()
        server.seconds(1)
        assert emulated_gpu.counters.device_to_host == 1


def test_a_clock_that_stopped_before_the_gpu_is_not_believed() -> None:
    assert stream_share("torch", 2.0, 1.5) == 0.75
    with pytest.raises(DifferentResultsError, match=r"torch: by its events the GPU took 2\.2 s, but the clock 2 s"):
        stream_share("torch", 2.0, 2.2)


@pytest.mark.parametrize("workload", ["tab64", "simplechains"])
def test_pytorch_s_graphs_do_the_same_work(workload: str) -> None:
    """All but the capture: on a CPU the step is run where a graph would be replayed."""
    if reason := PEERS["torch-graphs"].missing():
        pytest.skip(reason)
    with Worker("torch-graphs", cut(get_workload(workload)), 1, None, None, "cpu") as worker:
        verify("torch-graphs", worker.ask("sample")[1], worker.ask("prepare"))


def test_a_library_without_a_gpu_says_that_it_cannot() -> None:
    for name, reason in (("torch", "sees no CUDA device"), ("jax", "has no device cuda")):
        if PEERS[name].missing():
            continue
        with Worker(name, cut(get_workload("digits")), 1, None, None, "cuda") as worker:
            answer = worker.ask("sample")
        if isinstance(answer, Cannot):
            assert reason in answer.reason


def test_the_roofline_is_the_device_s_by_formula(emulated_gpu: Any) -> None:
    h200 = {"major": 9, "minor": 0, "multiProcessorCount": 132, "clockRate": 1_980_000}
    peak = Peak.of(h200 | {"memoryClockRate": 3_201_000, "memoryBusWidth": 6144})
    assert peak.flops == pytest.approx(66.9e12, rel=1e-3)
    assert peak.bytes == pytest.approx(4.92e12, rel=1e-3)
    backend = get_backend("cuda")
    assert isinstance(backend, CudaBackend)
    step = of_step(get_workload("digits"), backend, 1e6)
    assert step is not None
    assert (step["path"], step["launches"]) == ("narrow", 2)
    least = max(step["flops"] / step["peak_flops"], step["bytes"] / step["peak_bytes"])
    assert step["of_roofline"] == pytest.approx(least / (200 / 1e6))
    assert of_step(get_workload("simplechains"), backend, 1e6) is None


def test_a_gpu_s_figures_are_printed_and_written(
    emulated_gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def measured(workload: Any, names: list[str], *arguments: Any) -> dict[str, Any]:
        assert arguments[-1] == "cuda"
        row = measure(workload, ["scikit-learn", HOME], 1, 1, None, None)
        row["results"] = dict(zip(["torch-graphs", HOME], row["results"].values(), strict=True))
        row["results"][HOME]["stream_share"] = 0.9
        return row

    monkeypatch.setattr("benchmarks.peers.__main__.measure", measured)
    page = tmp_path / "page.md"
    page.write_text(f"{tables.BEGIN}\n{tables.END}\n")
    files = ["--json", str(tmp_path / "report.json"), "--write", str(page), "--chart", str(tmp_path / "chart.svg")]
    assert main(["--device", "cuda", "--small", "--workloads", "digits", "--peers", "nnfast", *files]) == 0
    output = capsys.readouterr().out
    assert re.search(r"Emulated GPU \(device 0\), .*; beside it ", output)
    assert "On the GPU, to the losses on the host" in output
    assert "nnfast: narrow path, 2 launches" in output
    assert "of the time on the wall: nnfast 90%" in output
    assert "On the GPU, wall time; samples a second" in page.read_text()
    assert "nnfast: narrow path, 2 launches" in page.read_text()
    assert "Emulated GPU" in (tmp_path / "chart.svg").read_text()


def test_a_gpu_s_figures_are_kept_where_the_roofline_fails(
    emulated_gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(workload: Any, *arguments: Any) -> dict[str, Any]:
        return measure(workload, [HOME], 1, 1, None, None)

    def fail(*arguments: Any) -> None:
        raise OSError("no such property")

    monkeypatch.setattr("benchmarks.peers.__main__.measure", measured)
    monkeypatch.setattr("benchmarks.peers.__main__.of_step", fail)
    assert main(["--device", "cuda", "--small", "--workloads", "digits", "--peers", "nnfast"]) == 1
    output, error = capsys.readouterr()
    assert re.search(r"(?m)^digits +nnfast +[\d,]+ ", output)
    assert "roofline" in output
    assert error.startswith("benchmarks.peers: digits: roofline: OSError: no such property\nTraceback")


def test_a_counter_counts() -> None:
    # The clock of the process, in nanoseconds: a virtual machine often has no counter of instructions
    try:
        counter = Counter(SOFTWARE, TASK_CLOCK)
    except NoCounterError as error:
        pytest.skip(str(error))
    before, start = counter.read(), time.process_time()
    while time.process_time() < start + 0.02:
        pass
    assert counter.read() - before > 0.01e9
    counter.close()
    with pytest.raises(OSError, match="perf_event_open"):
        Counter(99, 99)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "mnist"], "unknown name 'mnist'; known: xor, digits"),
        (["--peers", "nnfast,keras"], "unknown name 'keras'; known: scikit-learn"),
        (["--rounds", "0"], "must be a positive integer, got '0'"),
        (["--json", "no/such/report.json"], "--json: no/such is no directory"),
    ],
)
def test_wrong_usage_names_what_is_known(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
