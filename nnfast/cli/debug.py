"""nnfast debug: what a network becomes on its way to the processor, part by part."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..backends import Source, get_backend
from ..backends.formulas import formula_texts
from ..backends.numba import NumbaBackend
from ..backends.numba.listing import all_arrays, kernels_of, table_lines
from ..backends.numba.program import NumbaProgram
from ..backends.numba.table import Areas
from ..formulas.losses import check_pair, get_loss
from ..models.ensemble import first_member, load_trained
from ..models.validation import default_loss
from ..networks.named import NETWORKS
from ..networks.network import Network, multilayer_perceptron
from ..plans.plan import Plan, make_plan
from ..plans.recipe import Recipe
from ..support.checks import check_dtype, check_integer
from .arguments import PARTS
from .exit_codes import OK
from .options import ROWS
from .preparation import resolve_optimizer
from .run_directory import find_run

OF_LAYERS = ("inputs", "hidden", "outputs", "activation", "output_activation")  # the options in place of NAME


@dataclass(frozen=True)
class _Subject:
    """What is looked at."""

    backend: NumbaBackend
    plan: Plan
    recipe: Recipe

    @cached_property
    def program(self) -> NumbaProgram:
        """With every kernel that training calls."""
        program = self.backend.compile(self.plan, self.recipe)
        assert isinstance(program, NumbaProgram)
        row = np.zeros((1, self.plan.network.input_size), self.recipe.dtype)
        program.bind(Source(row, np.zeros(1, np.int64)))
        return program


def debug_command(arguments: argparse.Namespace) -> int:
    """Run `nnfast debug`."""
    backend = get_backend("numba", 1)
    assert isinstance(backend, NumbaBackend)
    network, recipe = _described(arguments)
    subject = _Subject(backend, make_plan(network, check_integer(arguments.batch_size, "--batch-size")), recipe)
    if arguments.assembly:
        print(_assembly(subject, arguments.assembly))
        return OK
    for part in PARTS if arguments.show is None else (arguments.show,):
        print(f"{part}:")
        for line in _LINES[part](subject):
            print(f"  {line}" if line else "")
    return OK


def _described(arguments: argparse.Namespace) -> tuple[Network, Recipe]:
    """The network and the recipe that the options ask for."""
    given = [name for name in OF_LAYERS if getattr(arguments, name) is not None]
    loss, optimizer, dtype = arguments.loss, arguments.optimizer, arguments.dtype
    if arguments.subject is None:
        network = _network_of_options(arguments)
    elif given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{arguments.subject} has layers of its own: leave out {flags}")
    elif arguments.subject in NETWORKS:
        network = NETWORKS[arguments.subject]()
    else:
        path, options = find_run(arguments.subject)
        model = first_member(load_trained(path))
        network = model.network
        loss, dtype = loss or model.loss, dtype or model.parameters.dtype
        optimizer = optimizer or options.get("optimizer")
    loss = get_loss(loss or default_loss(network))
    check_pair(network.output_layer.function, loss)
    optimizer, _ = resolve_optimizer(optimizer or ROWS["optimizer"].default)
    return network, Recipe(loss, optimizer, check_dtype(dtype or ROWS["dtype"].default))


def _network_of_options(arguments: argparse.Namespace) -> Network:
    if arguments.inputs is None or arguments.outputs is None:
        raise ValueError("give NAME, or --inputs N and --outputs N, with --hidden SIZES between them")
    return multilayer_perceptron(
        check_integer(arguments.inputs, "--inputs"),
        arguments.hidden or [],
        check_integer(arguments.outputs, "--outputs"),
        activation=arguments.activation or ROWS["activation"].default,
        output_activation=arguments.output_activation or ("identity" if arguments.outputs == 1 else "softmax"),
    )


def _plan_lines(subject: _Subject) -> Iterator[str]:
    """A line for each array: its vector and offset, its name, and its shape."""
    for vector, name, span in all_arrays(subject.plan, Areas(subject.plan, subject.recipe.dtype)):
        yield f"{vector:10}  {span.offset:>9}  {name:27}  {' x '.join(map(str, span.shape))}"


def _formula_lines(subject: _Subject) -> Iterator[str]:
    for title, texts in formula_texts(subject.plan.network, subject.recipe):
        for language, text in texts.items():
            yield f"{title}, {language}:"
            yield from (f"  {line}" if line else "" for line in text.splitlines())


def _kernel_lines(subject: _Subject) -> Iterator[str]:
    from ..kernels.cpu.signatures import declaration

    return (declaration(kernel.name, kernel.signature) for kernel in kernels_of(subject.program))


_LINES = {
    "plan": _plan_lines,
    "table": lambda subject: table_lines(subject.program),
    "formulas": _formula_lines,
    "kernels": _kernel_lines,
}


def _assembly(subject: _Subject, name: str) -> str:
    """One of the kernels that training calls: by its name, or the beginning of one."""
    from ..kernels.cpu.compilation import assembly

    kernels = {kernel.name: kernel for kernel in kernels_of(subject.program)}
    found = [name] if name in kernels else [known for known in kernels if known.startswith(name)]
    if len(found) != 1:
        what = f"begins the names of {', '.join(found)}" if found else f"is none of {', '.join(kernels)}"
        raise ValueError(f"--assembly {name} {what}")
    return assembly(kernels[found[0]])
