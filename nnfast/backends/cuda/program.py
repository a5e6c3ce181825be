"""What the programs of both paths share: vectors on the device, stretches sent over, losses read back."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import Plan
from ...plans.recipe import Recipe, batch_divisor
from ...support.arrays import is_on_device
from ..base import Program, Source, Vector, check_rows, check_source, check_stretch, weight_of
from .memory import DeviceRows, Stretch

if TYPE_CHECKING:
    from . import CudaBackend


class CudaProgram(Program):
    """A plan on the device. Every method selects the device, so that several can be in use in one process.

    Work is queued on the stream that is current when a method is called. run() sends the stretch over, queues all its
    steps, and waits once, for their losses. Inputs that are a CuPy array are read where they are.
    """

    reads_device_arrays = True

    def __init__(self, plan: Plan, recipe: Recipe, backend: CudaBackend) -> None:
        super().__init__(plan, recipe)
        from ...kernels.cuda import sources

        xp, dtype = backend.xp, recipe.dtype
        self._backend, self._xp = backend, xp
        self._parameters = xp.zeros(plan.parameter_count, dtype)
        self._gradient = xp.zeros(plan.parameter_count, dtype)
        self._slots = xp.zeros((len(recipe.optimizer.slots), plan.parameter_count), dtype)
        self._workspace = xp.zeros(plan.workspace_size, dtype)
        constants, self._constant_offsets = sources.constants(plan, recipe)
        self._constants = xp.asarray(np.array([*constants, 0.0], dtype))  # never empty
        self._stretch = Stretch(xp, 1 + len(recipe.optimizer.step_names))
        self._source: Source | None = None

    def _device(self) -> Any:
        return self._xp.cuda.Device(self._backend.device)

    @property
    def on_device(self) -> tuple[Any, Any]:
        """The parameters and slots themselves."""
        return self._parameters, self._slots

    def bind(self, source: Source) -> None:
        check_source(self.plan, source)
        self._source = source
        self._forget()
        with self._device():
            self._prepare(self._upload(source))

    @abstractmethod
    def _prepare(self, rows: DeviceRows) -> None:
        """Compile what training on these rows needs now, so that no epoch's seconds hold it."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop what was prepared for memory that has moved or is given up."""

    def _upload(self, source: Source) -> DeviceRows:
        return self._backend.rows(source, self.recipe.dtype)

    def run(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], rates: NDArray[np.float64], first_step: int
    ) -> NDArray[np.float64]:
        assert self._source is not None, "bind() comes first"
        check_stretch(self.plan, self._source, order, bounds, rates)
        losses = np.zeros(len(rates))
        weights = self._source.sample_weight
        if weights is None:
            totals = np.diff(bounds).astype(np.float64)
        else:  # summed here, so that nothing has to be read back to know a batch's divisor
            totals = np.add.reduceat(weights[order].astype(np.float64), bounds[:-1])
        active = np.flatnonzero(totals)  # a batch without weight changes nothing: the device does not hear of it
        if not len(active):
            return losses
        divisors = np.broadcast_to(batch_divisor(self.recipe.loss, totals), totals.shape)
        values = np.column_stack([divisors, self.recipe.optimizer.step_values(rates, first_step)])
        places = np.column_stack([bounds[:-1], bounds[1:]])[active]
        with self._device():
            rows = self._upload(self._source)
            if self._stretch.upload(order, places, first_step + active, values[active]):
                self._forget()
            self._train(rows, places[:, 1] - places[:, 0])
            losses[active] = self._stretch.losses[: len(active)].get()
        return losses

    @abstractmethod
    def _train(self, rows: DeviceRows, sizes: NDArray[np.int64]) -> None:
        """Queue the steps of self._stretch. sizes: (n_steps,) rows of each."""

    def loss_and_gradient(self, source: Source) -> tuple[float, Vector]:
        check_source(self.plan, source, self.plan.rows)
        total = weight_of(source, None)
        if not total:
            return 0.0, np.zeros(self.plan.parameter_count, self.recipe.dtype)
        divisor = batch_divisor(self.recipe.loss, total)
        with self._device():
            parts = self._differentiate(self._upload(source), source.n_rows, self._xp.asarray(np.array([divisor])))
            return sum(float(part.get().sum()) for part in parts) / divisor, self._gradient.get()

    @abstractmethod
    def _differentiate(self, rows: DeviceRows, n: int, divisor: Any) -> list[Any]:
        """Queue the gradient of all n rows as one batch; returns arrays whose numbers sum to its undivided loss.

        divisor: on the device, (1,) float64.
        """

    def _input_gradient(self, source: Source) -> Vector:
        total = weight_of(source, None)
        with self._device():
            divisor = self._xp.asarray(np.array([batch_divisor(self.recipe.loss, total)]))
            there = self._differentiate_inputs(self._upload(source), source.n_rows, divisor)
            gradient: Vector = there.copy() if is_on_device(source.inputs) else there.get()
        return gradient

    @abstractmethod
    def _differentiate_inputs(self, rows: DeviceRows, n: int, divisor: Any) -> Any:
        """Queue dLoss/dinputs of all n rows by the running statistics; returns where it will stand."""

    def evaluate(self, source: Source, rows: NDArray[np.int64] | None = None) -> tuple[float, Vector]:
        check_source(self.plan, source)
        check_rows(source, rows)
        divisor = batch_divisor(self.recipe.loss, weight_of(source, rows))
        with self._device():
            outputs, losses = self._evaluate(source, rows)
            total_loss, host_outputs = float(losses.get().sum()), outputs.get()
        return total_loss / max(divisor, np.finfo(float).tiny), host_outputs

    def predict(self, source: Source) -> Vector:
        check_source(self.plan, source)
        with self._device():
            outputs = self._evaluate(Source(source.inputs, scale=source.scale), None)[0]
            predictions: Vector = outputs if is_on_device(source.inputs) else outputs.get()
        return predictions

    @abstractmethod
    def _evaluate(self, source: Source, rows: NDArray[np.int64] | None) -> tuple[Any, Any]:
        """Queue the outputs (n_rows, output_size) of these rows, and numbers whose sum is the sum of their losses."""

    @property
    def parameters(self) -> Vector:
        vector: Vector = self._parameters.get()
        return vector

    @parameters.setter
    def parameters(self, vector: Vector) -> None:
        self._send(self._parameters, vector)

    @property
    def slots(self) -> Vector:
        vectors: Vector = self._slots.get()
        return vectors

    @slots.setter
    def slots(self, vectors: Vector) -> None:
        self._send(self._slots, vectors)

    def _send(self, there: Any, values: Vector) -> None:
        """Copy values over, and wait, so that the caller may change them afterwards."""
        host = np.ascontiguousarray(values, self.recipe.dtype)
        with self._device():
            there.set(host)
            self._xp.cuda.get_current_stream().synchronize()
