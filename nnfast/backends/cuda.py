"""The CUDA backend: the arrays of a plan on the device, matrix products by cuBLAS, formulas as CUDA kernels.

Rows, parameters and slots stay on the device. A stretch sends its order and step values over once and reads its
losses back once; between the two nothing waits for the device.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..plan import DenseOperation, DropoutOperation, Plan, Span
from ..random import Purpose, dropout_threshold
from .base import Backend, BackendUnavailableError, Program, Recipe, Source, Vector, batch_divisor

THREADS = 256  # a block
MAX_BLOCKS = 4096  # kernels stride over what is left


class CudaBackend(Backend):
    """One CUDA device. xp: CuPy, or, in tests, a module that stands in for it."""

    name = "cuda"

    def __init__(self, xp: Any, device: int = 0) -> None:
        self.xp = xp
        self.device = device
        self._modules: dict[str, Any] = {}

    @property
    def description(self) -> str:
        properties = self.xp.cuda.runtime.getDeviceProperties(self.device)
        return f"{properties['name'].decode()} (device {self.device}), CuPy {self.xp.__version__}"

    def compile(self, plan: Plan, recipe: Recipe) -> CudaProgram:
        with self.xp.cuda.Device(self.device):
            return CudaProgram(plan, recipe, self)

    def kernel(self, source: str, name: str) -> Any:
        """A kernel compiled from `source` for this device; CuPy keeps the compiled code on disk."""
        if source not in self._modules:
            self._modules[source] = self.xp.RawModule(code=source, options=("--std=c++17",))
        return self._modules[source].get_function(name)


class _Rows(NamedTuple):
    """A Source on the device; sparse inputs are a tuple: values, column indices and where each row starts."""

    inputs: Any
    targets: Any
    sample_weight: Any
    scale: float


class CudaProgram(Program):
    """A plan on the device. Every method selects the device, so that several can be in use in one process."""

    def __init__(self, plan: Plan, recipe: Recipe, backend: CudaBackend) -> None:
        super().__init__(plan, recipe)
        from ..kernels.cuda import sources

        xp, dtype = backend.xp, recipe.dtype
        self._backend, self._xp, self._sources = backend, xp, sources
        self._parameters = xp.zeros(plan.parameter_count, dtype)
        self._gradient = xp.zeros(plan.parameter_count, dtype)
        self._slots = xp.zeros((len(recipe.optimizer.slots), plan.parameter_count), dtype)
        self._workspace = xp.zeros(plan.workspace_size, dtype)
        self._row_losses = xp.zeros(plan.rows, np.float64)
        self._zeros = xp.zeros(max(op.outputs.shape[1] for op in plan.operations), dtype)
        self._constants = {op.layer_index: self._constants_of(op) for op in plan.dense_operations}
        self._source: Source | None = None
        self._uploaded: dict[int, tuple[Source, _Rows]] = {}

    def _constants_of(self, op: DenseOperation) -> Any:
        values = op.layer.function.constant_values
        if op is self.plan.output:
            values = (*values, *self.recipe.loss.constant_values)
        return self._xp.asarray(np.array([*values, 0.0], self.recipe.dtype))

    def _kernel(self, kind: str, *arguments: Any, name: str | None = None) -> Any:
        source = getattr(self._sources, f"{kind}_source")(*arguments, self.recipe.dtype)
        return self._backend.kernel(source, name or kind)

    def _launch(self, kernel: Any, threads: int, *arguments: Any) -> None:
        blocks = min(-(-threads // THREADS), MAX_BLOCKS)
        kernel((blocks,), (THREADS,), arguments)

    def bind(self, source: Source) -> None:
        self._source = source
        self._uploaded.clear()
        self._upload(source)

    def _upload(self, source: Source) -> _Rows:
        """The source on the device; the two last used stay there."""
        if id(source) not in self._uploaded:
            with self._backend.xp.cuda.Device(self._backend.device):
                targets = np.zeros(0, np.int64) if source.targets is None else source.targets
                weights = None if source.sample_weight is None else self._xp.asarray(source.sample_weight)
                inputs = source.inputs
                if source.is_sparse:
                    parts = (inputs.data, inputs.indices.astype(np.int64), inputs.indptr.astype(np.int64))
                    inputs = tuple(self._xp.asarray(part) for part in parts)
                else:
                    inputs = self._xp.asarray(inputs)
                rows = _Rows(inputs, self._xp.asarray(targets), weights, source.scale)
            for key in [key for key, (kept, _) in self._uploaded.items() if kept is not self._source]:
                del self._uploaded[key]
            self._uploaded[id(source)] = (source, rows)
        return self._uploaded[id(source)][1]

    def run(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], rates: NDArray[np.float64], first_step: int
    ) -> NDArray[np.float64]:
        assert self._source is not None, "bind() comes first"
        xp, recipe = self._xp, self.recipe
        host_weights = self._source.sample_weight
        if host_weights is None:
            totals = np.diff(bounds).astype(np.float64)
        else:  # summed here, so that nothing has to be read back to know a batch's divisor
            totals = np.add.reduceat(host_weights[order].astype(np.float64), bounds[:-1])
        with xp.cuda.Device(self._backend.device):
            rows = self._upload(self._source)
            device_order = xp.asarray(order)
            values = xp.asarray(recipe.optimizer.step_values(rates, first_step).astype(recipe.dtype))
            losses = xp.zeros(len(rates), np.float64)
            update = self._kernel("update", recipe.optimizer)
            size = self.plan.parameter_count
            for k in range(len(rates)):
                if totals[k] == 0:
                    continue
                batch = device_order[int(bounds[k]) : int(bounds[k + 1])]
                self._loss_and_gradient(rows, batch, totals[k], first_step + k, losses[k : k + 1])
                if recipe.clip_norm is not None:
                    norm = xp.sqrt(xp.sum(self._gradient * self._gradient))
                    factor = xp.minimum(recipe.dtype.type(recipe.clip_norm) / norm, recipe.dtype.type(1))
                    self._gradient *= factor
                self._launch(update, size, self._parameters, self._gradient, self._slots, values[k], np.int64(size))
            host_losses: NDArray[np.float64] = losses.get()
        return host_losses

    def loss_and_gradient(self, source: Source) -> tuple[float, Vector]:
        weights = source.sample_weight
        total = float(source.n_rows if weights is None else weights.sum(dtype=np.float64))
        with self._xp.cuda.Device(self._backend.device):
            loss = self._xp.zeros(1, np.float64)
            order = self._xp.arange(source.n_rows, dtype=np.int64)
            self._loss_and_gradient(self._upload(source), order, total, None, loss)
            return float(loss.get()[0]), self._gradient.get()

    def _loss_and_gradient(self, rows: _Rows, batch: Any, total: float, step: int | None, loss: Any) -> None:
        """Forward and backward for one batch; its loss goes to `loss`, shape (1,), float64, on the device."""
        xp, divisor = self._xp, batch_divisor(self.recipe.loss, total)
        n = len(batch)
        self._forward(rows, batch, step)
        self._output_loss(rows, batch, 1 / divisor)
        loss[...] = xp.sum(self._row_losses[:n])
        self._backward(n, step)
        alpha, l1 = self.recipe.alpha, self.recipe.l1
        if alpha or l1:
            scale = self.recipe.dtype.type
            for span in self.plan.weight_spans:
                W, slope = span.view(self._parameters), span.view(self._gradient)
                slope += W * scale(alpha / divisor)
                slope += xp.sign(W) * scale(l1 / divisor)
                loss += xp.sum(W * W) * (alpha / 2) + xp.sum(xp.abs(W)) * l1
        loss /= divisor

    def _gather(self, source: Any, batch: Any, columns: int, scale: float, out: Any, name: str = "gather") -> None:
        kernel = self._kernel("gather", source.dtype, name=name)
        n = len(batch) * columns
        self._launch(kernel, n, source, batch, np.int64(n), np.int32(columns), self.recipe.dtype.type(scale), out)

    def _view(self, span: Span, n: int) -> Any:
        return span.view(self._workspace, n)

    def _bias(self, op: DenseOperation) -> Any:
        return op.bias.view(self._parameters) if op.bias else self._zeros

    def _forward(self, rows: _Rows, batch: Any, step: int | None) -> None:
        """Every layer's outputs; for the last layer only the product. step: None leaves dropout out."""
        plan, n = self.plan, len(batch)
        inputs = self._view(plan.inputs, n)
        if isinstance(rows.inputs, tuple):
            inputs.fill(0)
            kernel = self._kernel("gather", rows.inputs[0].dtype, name="gather_csr")
            self._launch(kernel, n, *rows.inputs, batch, np.int64(n), np.int32(inputs.shape[1]), inputs)
        else:
            scale = rows.scale if rows.inputs.dtype != self.recipe.dtype else 1.0
            self._gather(rows.inputs, batch, plan.inputs.shape[1], scale, inputs)
        for op in plan.operations:
            x, out = self._view(op.inputs, n), self._view(op.outputs, n)
            if isinstance(op, DropoutOperation):
                self._dropout(op, x, out, self._view(op.mask, n), step)
                continue
            assert isinstance(op, DenseOperation)  # Program refused the others
            z = self._view(op.z, n)
            self._xp.matmul(x, op.weights.view(self._parameters), out=z)
            if op is not plan.output:
                kernel = self._kernel("value", op.layer.function)
                self._launch(
                    kernel, z.size, z, self._bias(op), out, self._constants[op.layer_index], np.int64(z.size),
                    np.int32(z.shape[1]),
                )  # fmt: skip

    def _dropout(self, op: DropoutOperation, x: Any, out: Any, mask: Any, step: int | None) -> None:
        if step is None:
            out[...] = x
            mask.fill(1)
            return
        purpose_layer = np.uint32(Purpose.DROPOUT << 24 | op.layer_index)
        self._launch(
            self._kernel("dropout"), -(-x.size // 4), x, out, mask, np.uint64(self.recipe.seed), np.uint64(step),
            purpose_layer, np.uint64(dropout_threshold(op.layer.rate)),
            self.recipe.dtype.type(1 / (1 - op.layer.rate)), np.int64(x.size),
        )  # fmt: skip

    def _output_loss(self, rows: _Rows, batch: Any, scale: float) -> None:
        """The last layer's activation, weighted losses of the rows, and dLoss/dz times `scale`."""
        plan, op, n = self.plan, self.plan.output, len(batch)
        targets, weights = self._view(plan.targets, n), self._view(plan.sample_weight, n)
        if rows.targets.ndim == 1 and rows.targets.size:
            self._gather(rows.targets, batch, plan.targets.shape[1], 1.0, targets, name="one_hot")
        elif rows.targets.size:
            self._gather(rows.targets, batch, plan.targets.shape[1], 1.0, targets)
        if rows.sample_weight is None:
            weights.fill(1)
        else:
            self._gather(rows.sample_weight, batch, 1, 1.0, weights)
        kernel = self._kernel("loss", op.layer.function, self.recipe.loss)
        self._launch(
            kernel, n, self._view(op.z, n), self._bias(op), self._view(op.outputs, n), targets, weights,
            self._view(op.gradient, n), self._constants[op.layer_index], self.recipe.dtype.type(scale),
            self._row_losses, np.int32(n), np.int32(op.outputs.shape[1]),
        )  # fmt: skip

    def _backward(self, n: int, step: int | None) -> None:
        """Backpropagation: from dLoss/dz of the last layer to the gradient of every parameter."""
        xp = self._xp
        for op in reversed(self.plan.operations):
            delta = self._view(op.gradient, n)
            if isinstance(op, DropoutOperation):
                if op.input_gradient:
                    xp.multiply(delta, self._view(op.mask, n), out=self._view(op.input_gradient, n))
                continue
            assert isinstance(op, DenseOperation)  # Program refused the others
            if op is not self.plan.output:
                kernel = self._kernel("derivative", op.layer.function)
                self._launch(
                    kernel, delta.size, self._view(op.z, n), self._view(op.outputs, n), delta,
                    self._constants[op.layer_index], np.int64(delta.size),
                )  # fmt: skip
            xp.matmul(self._view(op.inputs, n).T, delta, out=op.weights.view(self._gradient))
            if op.bias:
                xp.sum(delta, axis=0, out=op.bias.view(self._gradient))
            if op.input_gradient:
                W = op.weights.view(self._parameters)
                xp.matmul(delta, W.T, out=self._view(op.input_gradient, n))

    def evaluate(self, source: Source) -> tuple[float, Vector]:
        xp = self._xp
        total_loss = 0.0
        outputs = np.empty((source.n_rows, self.plan.network.output_size), self.recipe.dtype)
        with xp.cuda.Device(self._backend.device):
            rows = self._upload(source)
            for start in range(0, source.n_rows, self.plan.rows):
                batch = xp.arange(start, min(start + self.plan.rows, source.n_rows), dtype=np.int64)
                n = len(batch)
                self._forward(rows, batch, None)
                self._output_loss(rows, batch, 1.0)
                outputs[start : start + n] = self._view(self.plan.output.outputs, n).get()
                total_loss += float(xp.sum(self._row_losses[:n]))
        weights = source.sample_weight
        weight = float(source.n_rows if weights is None else weights.sum(dtype=np.float64))
        return total_loss / max(batch_divisor(self.recipe.loss, weight), np.finfo(float).tiny), outputs

    def predict(self, source: Source) -> Vector:
        return self.evaluate(Source(source.inputs, scale=source.scale))[1]

    @property
    def parameters(self) -> Vector:
        vector: Vector = self._parameters.get()
        return vector

    @parameters.setter
    def parameters(self, vector: Vector) -> None:
        self._parameters.set(np.ascontiguousarray(vector, self.recipe.dtype))

    @property
    def slots(self) -> Vector:
        vectors: Vector = self._slots.get()
        return vectors

    @slots.setter
    def slots(self, vectors: Vector) -> None:
        self._slots.set(np.ascontiguousarray(vectors, self.recipe.dtype))


def unavailable_reason() -> str | None:
    """Why no CUDA device can be used here. Cheap where there is none: CuPy is imported only beside a driver."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; install nnfast[cuda12] or nnfast[cuda13]"
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"there is no NVIDIA driver ({library} is not found); install it on a machine with an NVIDIA GPU"
    try:
        count = importlib.import_module("cupy").cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's own classes, known only where it can be imported
        return f"CuPy finds no usable CUDA device ({' '.join(str(error).split())})"
    return None if count else "there is no CUDA device"


def create(device: int | None, threads: int | None) -> CudaBackend:
    """The backend for one device. Raises BackendUnavailableError for a number that no device has."""
    xp = importlib.import_module("cupy")
    count = xp.cuda.runtime.getDeviceCount()
    number = device or 0
    if number >= count:
        raise BackendUnavailableError(f"backend 'cuda:{number}' is not available: there are {count} devices, from 0")
    return CudaBackend(xp, number)
