"""nnfast debug: each part of what a network becomes, and that the parts agree with each other."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from nnfast.formulas.activations import get_activation
from nnfast.kernels.cpu import formulas, tables
from tests.cli.results import assert_refused

DENSE = ("--inputs", 20, "--hidden", "64,10", "--outputs", 2)
NETWORKS = pytest.mark.parametrize("network", [DENSE, ("lenet5",)], ids=["dense", "images"])


@pytest.fixture
def debug(nnfast, monkeypatch):
    """The lines of one part, without its title; a GPU's package may not even be asked for."""
    monkeypatch.setitem(sys.modules, "cupy", None)

    def run(*arguments):
        code, out, err = nnfast("debug", *arguments)
        assert (code, err) == (0, "")
        return [line.removeprefix("  ") for line in out.splitlines()[1:]]

    return run


def plan_of(debug, *network):
    """{(vector, offset): (name, number of elements)} of the plan that is shown."""
    found = {}
    for line in debug(*network, "--show", "plan"):
        vector, offset, name, shape = re.split(r"\s{2,}", line)
        size = 1
        for length in shape.split(" x "):
            size *= int(length)
        found[vector, int(offset)] = (name, size)
    return found


def table_of(debug, *network):
    """[(kind, {column: word})] of the table that is shown, the job last."""
    rows = [line.split(": ", 1) for line in debug(*network, "--show", "table")]
    return [(kind.split(" ")[-1], dict(item.split(" ", 1) for item in words.split(", "))) for kind, words in rows]


def test_the_plan_names_every_array_with_its_place(debug):
    plan = plan_of(debug, *DENSE)
    assert plan["parameters", 0] == ("layers.0.weights", 1280)
    assert plan["parameters", 1280] == ("layers.0.bias", 64)
    assert plan["workspace", 0] == ("inputs", 64 * 20)
    assert plan_of(debug, *DENSE, "--batch-size", 3)["workspace", 0] == ("inputs", 3 * 20)
    assert plan_of(debug, "lenet5")["parameters", 156] == ("layers.2.weights", 5 * 5 * 6 * 16)


@NETWORKS
def test_the_table_agrees_with_the_plan(debug, network):
    plan, table = plan_of(debug, *network), table_of(debug, *network)
    offsets = 0
    for _, words in table[:-1]:
        for column, word in words.items():
            if found := re.fullmatch(r"(\w+)\[(\d+):(\d+)\]", word):
                vector, start, stop = found[1], int(found[2]), int(found[3])
                name, size = plan[vector, start]
                assert size == stop - start, (column, word, name)
                offsets += 1
            else:
                assert column not in ("inputs", "outputs", "z", "gradient", "weights", "bias"), (column, word)
    assert offsets > 15
    kinds = [kind for kind, _ in table]
    dense = ["DENSE"] * 3
    assert kinds == [*([] if network == DENSE else ["INTERLEAVE", *["PASS"] * 4, "DEINTERLEAVE"]), *dense, "job"]
    weights = [words["weights"] for _, words in table if "weights" in words]
    named = [
        plan[name, int(start)][0] for name, start in (re.match(r"(\w+)\[(\d+)", word).groups() for word in weights)
    ]
    assert named == [f"layers.{index}.weights" for index in ([0, 1, 2] if network == DENSE else [0, 2, 5, 6, 7])]


@NETWORKS
def test_every_address_in_the_table_is_a_kernel_by_name(debug, network):
    kernels = {line.partition("(")[0] for line in debug(*network, "--show", "kernels")}
    table = table_of(debug, *network)
    addresses = {"value", "derivative", "forward", "backward", "weight_gradient", "statistics", "sums"}
    for _, words in table[:-1]:
        assert {word for column, word in words.items() if column in addresses} <= kernels
        rows = [word for column, word in words.items() if column.endswith("_row")]
        assert all(re.fullmatch(r"row of \d+", word) for word in rows)
    job = table[-1][1]
    assert {job["loss"], job["update"], job["multiply"], job["transpose"], "run_steps"} <= kernels
    assert [*job] == [name.lower() for name in tables.names("OPERATIONS", "JOB_SIZE")]
    every = " ".join(word for _, words in table for word in words.values())
    assert not re.search(r"\d{10}", every)  # no bare address


def test_the_table_is_the_same_in_every_process(debug):
    assert debug("lenet5", "--show", "table") == debug("lenet5", "--show", "table")


@NETWORKS
def test_formulas_come_in_three_languages_and_as_they_are_compiled(debug, network):
    lines = debug(*network, "--optimizer", "sgd:momentum=0.9", "--show", "formulas")
    titles = [line for line in lines if re.fullmatch(r"\w.*, (NumPy|Numba|CUDA C):", line)]
    assert titles == [
        f"{formula}, {language}:"
        for formula in ("activation relu", "loss cross_entropy on softmax", "optimizer sgd")
        for language in ("NumPy", "Numba", "CUDA C")
    ]
    named = {line.removeprefix("  # ") for line in lines if re.fullmatch(r"  # [a-z]+_[0-9a-f]{16}", line)}
    table = table_of(debug, *network, "--optimizer", "sgd:momentum=0.9")
    used = {
        words[column] for _, words in table for column in ("value", "derivative", "loss", "update") if column in words
    }
    assert named == used
    text = "\n".join(line.removeprefix("  ") for line in lines)
    compiled = formulas.value_text(get_activation("relu"), formulas.np.dtype("float32"))
    assert compiled.partition("\n\n")[2].strip() in text
    assert "np.maximum(x_z, T(0.0))" in text
    assert "const T t0 = x < T(0.0) ? T(0.0) : x;" in text


def test_loss_and_dtype_are_those_asked_for(debug):
    options = ("--inputs", 3, "--outputs", 2, "--output-activation", "tanh", "--loss", "huber", "--dtype", "float64")
    lines = debug(*options, "--show", "formulas")
    assert lines[0] == "loss huber on tanh, NumPy:"
    assert "  T = np.float64" in lines
    assert "  # da/dz = (1 - a) * (1 + a)" in lines
    assert "  # loss = 0.5 * (z - y)**2" in debug("--inputs", 3, "--outputs", 1, "--show", "formulas")


def test_without_show_all_parts_come(nnfast):
    code, out, _ = nnfast("debug", *DENSE)
    assert code == 0
    assert [line for line in out.splitlines() if not line.startswith(" ") and line] == [
        "plan:", "table:", "formulas:", "kernels:",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["transpose", "value"])
def test_assembly_is_that_of_the_kernel(nnfast, name):
    code, out, err = nnfast("debug", *DENSE, "--assembly", name)
    assert (code, err) == (0, "")
    (symbol,) = re.findall(r"^_?(nnfast_\w+_float32):", out, re.MULTILINE)
    assert symbol.startswith(f"nnfast_{name}")
    assert re.search(r"^\s+ret", out, re.MULTILINE)


def test_a_run_brings_its_network_dtype_loss_and_optimizer(nnfast, debug, tmp_path):
    options = ("--backend", "numpy", "--epochs", 1, "--hidden", 8, "--activation", "tanh", "--dtype", "float64")
    assert nnfast("train", "digits", *options, "--optimizer", "adagrad", "--out", "a", "--quiet")[0] == 0
    lines = debug("a", "--show", "formulas")
    assert {"activation tanh, Numba:", "loss cross_entropy on softmax, Numba:", "optimizer adagrad, Numba:"} <= {*lines}
    assert "  T = np.float64" in lines
    assert plan_of(debug, "a/model.safetensors")["parameters", 0] == ("layers.1.weights", 64 * 8)


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        ((), ("give NAME, or --inputs N and --outputs N",)),
        (("--hidden", "3"), ("give NAME, or --inputs N and --outputs N",)),
        (("lenet5", "--hidden", "3", "--output-activation", "tanh"), ("leave out --hidden, --output-activation",)),
        (("nosuch",), ("there is no run 'nosuch'",)),
        (("lenet5", "--loss", "nope"), ("unknown loss 'nope'",)),
        (
            ("--inputs", "3", "--outputs", "1", "--loss", "cross_entropy"),
            ("loss 'cross_entropy' needs outputs in simplex",),
        ),
        (("lenet5", "--optimizer", "adam:beta1=0.9"), ("no option 'beta1'",)),
        (("lenet5", "--dtype", "float16"), ("dtype must be one of float32, float64",)),
        (("lenet5", "--batch-size", "0"), ("--batch-size must be a positive integer",)),
        (("--inputs", "0", "--outputs", "2"), ("--inputs must be a positive integer",)),
        (("lenet5", "--show", "everything"), ("--show", "'everything'", "nnfast debug --help")),
        (("lenet5", "--show", "plan", "--assembly", "value"), ("not allowed with argument --show",)),
        (("lenet5", "--assembly", "nope"), ("--assembly nope is none of run_steps,",)),
        (("lenet5", "--assembly", "max"), ("--assembly max begins the names of max_forward, max_backward",)),
    ],
)
def test_a_mistake_is_one_line(nnfast, arguments, phrases):
    assert_refused(nnfast("debug", *arguments), *phrases, command="debug")


def test_the_guide_s_commands_run(nnfast):
    guide = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "debugging.md").read_text()
    commands = [shlex.split(line, comments=True) for line in guide.splitlines() if line.startswith("nnfast debug ")]
    assert len(commands) >= 5
    for _, *arguments in commands:
        assert nnfast(*arguments)[0] == 0, arguments


def test_without_numba_it_says_so(nnfast, monkeypatch):
    monkeypatch.setattr("nnfast.backends.numba.unavailable_reason", lambda: "Numba is not installed; install numba")
    assert_refused(nnfast("debug", "lenet5"), "Numba is not installed", code=3, command="debug")
