"""What the formulas of a training become in every language: the texts that the backends compile or run."""

from __future__ import annotations

from collections.abc import Iterator

from ..formulas.activations import Activation
from ..formulas.formula import numpy_text
from ..formulas.losses import canonical_pair, is_softmax_cross_entropy
from ..networks.network import Network
from ..plans.recipe import Recipe


def formula_texts(network: Network, recipe: Recipe) -> Iterator[tuple[str, dict[str, str]]]:
    """A title, and the texts by language, of each hidden activation, the loss on its outputs, and the optimizer."""
    hidden = (layer.function for layer in network.layers if layer is not network.output_layer)
    for activation in dict.fromkeys(function for function in hidden if function):
        yield f"activation {activation.name}", _activation_texts(activation, recipe)
    output = network.output_layer.function
    yield f"loss {recipe.loss.name} on {output.name}", _loss_texts(output, recipe)
    yield f"optimizer {recipe.optimizer.name}", _optimizer_texts(recipe)


def _activation_texts(activation: Activation, recipe: Recipe) -> dict[str, str]:
    from ..kernels.cpu import formulas
    from ..kernels.cuda.sources import activation_struct

    constants = activation.constant_names
    return {
        "NumPy": _functions(
            {
                "a": (activation.value, ("z", *constants)),
                "da/dz": (activation.derivative, ("a", "z", *constants)),
            }
        ),
        "Numba": _kernels(
            {
                "value": formulas.value_text(activation, recipe.dtype),
                "derivative": formulas.derivative_text(activation, recipe.dtype),
            }
        ),
        "CUDA C": activation_struct(activation, "F"),
    }


def _loss_texts(output: Activation, recipe: Recipe) -> dict[str, str]:
    from ..kernels.cpu import formulas
    from ..kernels.cuda.sources import loss_macros

    loss = recipe.loss
    if is_softmax_cross_entropy(output, loss):
        numpy = "# Of whole rows: loss_of_outputs and delta_of_outputs in nnfast/backends/numpy/program.py"
    elif pair := canonical_pair(output, loss):
        numpy = _functions({"loss": (pair.value, ("z", "a", "y")), "dLoss/dz": (pair.delta, ("z", "a", "y"))})
    else:
        own, names = output.constant_names, ("a", "y", *loss.constant_names)
        slope = {} if output.is_row_operation else {"da/dz": (output.derivative, ("a", "z", *own))}
        value = {} if output.is_row_operation else {"a": (output.value, ("z", *own))}
        losses = {"loss": (loss.value, names), "dLoss/da": (loss.derivative, names)}
        numpy = _functions(value | losses | slope)
    return {
        "NumPy": numpy,
        "Numba": _kernels({"loss": formulas.loss_text(output, loss, recipe.dtype)}),
        "CUDA C": loss_macros(output, loss),
    }


def _optimizer_texts(recipe: Recipe) -> dict[str, str]:
    from ..kernels.cpu import formulas
    from ..kernels.cuda.sources import update_function

    optimizer = recipe.optimizer
    names = ("p", "g", *optimizer.slots, *optimizer.step_names)
    return {
        "NumPy": _functions({target: (text, names) for target, text in dict(optimizer.updates).items()}),
        "Numba": _kernels({"update": formulas.update_text(optimizer, recipe.dtype)}),
        "CUDA C": update_function(optimizer),
    }


def _functions(formulas: dict[str, tuple[str, tuple[str, ...]]]) -> str:
    """NumPy's functions by what they compute, each with its formula."""
    return "\n".join(
        f"# {result} = {text}\n{numpy_text(text, arguments)}" for result, (text, arguments) in formulas.items()
    )


def _kernels(texts: dict[str, str]) -> str:
    """Numba's kernels by their kinds, each with its name in the operations table; without their imports."""
    from ..kernels.cpu.compilation import written_name

    bodies = {written_name(kind, text): text.partition("\n\n")[2] for kind, text in texts.items()}
    return "\n".join(f"# {name}\n{body}" for name, body in bodies.items())
