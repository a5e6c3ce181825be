"""Streams, events and captured graphs of the array twin, with what CUDA and CuPy refuse of them.

All work is done as soon as it is given. So that this hides nothing, the order that a GPU would guarantee is kept as a
clock for each stream: work on memory that another stream uses, with no event and no wait between the two, is refused.
A graph keeps the addresses that its kernels were given and not the arrays, as on the GPU: one that is launched after an
array is gone is refused.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

_RUNTIME_ERRORS = {
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    400: "cudaErrorInvalidResourceHandle: invalid resource handle",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
    905: "cudaErrorStreamCaptureIsolation: dependency created on uncaptured work in another stream",
    906: "cudaErrorStreamCaptureImplicit: operation would make the legacy stream depend on a capturing blocking stream",
    907: "cudaErrorCapturedEvent: operation not permitted on an event last recorded in a capturing stream",
}


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime, by its number, as `cupy.cuda.runtime.CUDARuntimeError`."""

    def __init__(self, status: int) -> None:
        super().__init__(_RUNTIME_ERRORS[status])
        self.status = status


@dataclass
class Counters:
    """What the program asked of the device since the last `reset()`.

    Captured work is counted by `graph_nodes` whenever its graph is launched, and not as it is recorded. A copy to the
    host waits for the device, so each is a synchronization too.
    """

    host_to_device: int = 0
    device_to_host: int = 0
    bytes_to_device: int = 0
    bytes_to_host: int = 0
    kernel_launches: int = 0
    array_operations: int = 0
    graph_launches: int = 0
    graph_nodes: int = 0
    allocations: int = 0
    synchronizations: int = 0

    def reset(self) -> None:
        for field in fields(self):
            setattr(self, field.name, 0)


class Memory:
    """One allocation: who has it, and which stream's work used it last."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host
        self.write: tuple[Stream, int] | None = None
        self.reads: dict[Stream, int] = {}  # since that write


class Array(Protocol):
    """What is known here of a device array."""

    _host: np.ndarray
    _memory: Memory


class _Address(NamedTuple):
    """An array as a graph has it."""

    memory: weakref.ref[Memory]
    interface: dict[str, Any]  # of NumPy's array interface: address, shape, strides, type

    def resolve(self, what: str) -> _Resolved:
        memory = self.memory()
        if memory is None:
            raise RuntimeError(f"twin: a graph runs {what} on an array that is gone; a graph keeps none of its arrays")
        return _Resolved(np.asarray(_Interface(memory, self.interface)), memory)


class _Interface:
    """What NumPy makes an array of, which then keeps the memory."""

    def __init__(self, memory: Memory, interface: dict[str, Any]) -> None:
        self.memory = memory
        self.__array_interface__ = interface


@dataclass
class _Resolved:
    """An address made an array again."""

    _host: np.ndarray
    _memory: Memory


class _Node(NamedTuple):
    """One piece of work of a graph."""

    what: str
    work: Callable[..., None]
    operands: list[Any]
    writes: list[bool]


class Streams:
    """All streams of a program, and the order of their work."""

    def __init__(self, counters: Counters, is_array: Callable[[Any], bool], require_device: Callable[[], None]) -> None:
        self.counters = counters
        self.is_array = is_array
        self.require_device = require_device
        self.every: list[Stream] = []
        self.lost: str | None = None  # what is told by the next piece of work
        self.host: dict[Stream, int] = {}  # what the host has waited for: all that it gives later comes after it
        self.Stream: type[Stream] = type("Stream", (Stream,), {"_streams": self})
        self.Event: type[Event] = type("Event", (Event,), {"_streams": self})
        self.null = self.Stream.null = self.Stream()
        self.stack = [self.null]

    @property
    def current(self) -> Stream:
        return self.stack[-1]

    def issue(
        self, what: str, counter: str, work: Callable[..., None], operands: Sequence[Any], writes: Sequence[bool],
        stream: Stream | None = None,
    ) -> None:  # fmt: skip
        """Give `work(*operands)` to a stream, by default the current one: done at once, or recorded while it captures.

        operands: arrays, which `work` gets as NumPy's, and other values; writes: for each, whether it is written.
        """
        stream = stream or self.current
        if stream._capture is not None:
            kept = [_address(value) if self.is_array(value) else value for value in operands]
            stream._capture.append(_Node(what, work, kept, list(writes)))
            return
        stream._advance()
        self._run(stream, what, work, operands, writes)
        setattr(self.counters, counter, getattr(self.counters, counter) + 1)

    def replay(self, stream: Stream, nodes: Sequence[_Node]) -> None:
        stream._advance()
        for node in nodes:
            operands = [value.resolve(node.what) if isinstance(value, _Address) else value for value in node.operands]
            self._run(stream, node.what, node.work, operands, node.writes)

    def _run(
        self, stream: Stream, what: str, work: Callable[..., None], operands: Sequence[Any], writes: Sequence[bool]
    ) -> None:
        hosts = []
        for value, is_written in zip(operands, writes, strict=True):
            is_array = isinstance(value, _Resolved) or self.is_array(value)
            if is_array:
                self.use(stream, what, value, is_written)
            hosts.append(value._host if is_array else value)
        work(*hosts)

    def use(self, stream: Stream, what: str, array: Array, is_written: bool) -> None:
        """Note that the stream's latest work uses an array. RuntimeError where other work is not ordered before it."""
        memory = array._memory
        if memory.write:
            stream._require_after(*memory.write, what, "writes")
        if is_written:
            for other, clock in memory.reads.items():
                stream._require_after(other, clock, what, "reads")
            memory.write, memory.reads = (stream, stream._clock), {}
        else:
            memory.reads[stream] = stream._clock

    def borrow(self, host: np.ndarray, stream: Stream) -> None:
        """Note that the stream's latest work reads host memory, which must live until the host has waited for it."""
        while isinstance(host.base, np.ndarray):
            host = host.base
        clock = stream._clock

        def give_back() -> None:
            if self.host.get(stream, 0) < clock:
                self.lost = "twin: host memory was given up while a copy to the device may still have been reading it"

        weakref.finalize(host, give_back).atexit = False

    def require_no_capture(self, error: Exception, stream: Stream | None = None) -> None:
        """Raise `error` if the stream, by default the current one, is capturing."""
        if (stream or self.current)._capture is not None:
            raise error

    def wait_for_all(self) -> None:
        """As cudaDeviceSynchronize."""
        for stream in self.every:
            stream._refuse_in_capture(900)
        self.counters.synchronizations += 1
        for stream in self.every:
            self.host[stream] = stream._clock


def _address(array: Array) -> _Address:
    return _Address(weakref.ref(array._memory), dict(array._host.__array_interface__))


def _merge(into: dict[Stream, int], other: dict[Stream, int]) -> None:
    for stream, clock in other.items():
        into[stream] = max(clock, into.get(stream, 0))


class Stream:
    """A stream. `null` is the legacy default stream, which waits for all others but the non-blocking ones."""

    _streams: ClassVar[Streams]
    null: ClassVar[Stream]

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        if null or ptds:
            raise ValueError("twin: use Stream.null; the per-thread default stream is not offered")
        if self._streams.every:  # the first, the null stream, is there on any machine
            self._streams.require_device()
        self.is_non_blocking = non_blocking
        self._clock = 0
        self._seen: dict[Stream, int] = {}  # other streams' work that its own comes after
        self._capture: list[_Node] | None = None
        self._invalid = False
        self._streams.every.append(self)

    def __enter__(self) -> Self:
        self._streams.stack.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._streams.stack.pop()

    def use(self) -> Self:
        self._streams.stack[-1] = self
        return self

    @property
    def done(self) -> bool:
        self._refuse_in_capture(900)
        return True

    def synchronize(self) -> None:
        self._refuse_in_capture(900)
        self._streams.counters.synchronizations += 1
        _merge(self._streams.host, self._seen | {self: self._clock})

    def record(self, event: Event | None = None) -> Event:
        event = event or self._streams.Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event._captured_by is None:
            self._refuse_in_capture(905)
            _merge(self._seen, event._clocks)
        elif event._captured_by is not self:
            raise RuntimeError("twin: a capture that goes over to another stream is not offered; if needed, add it")

    def begin_capture(self, mode: int | None = None) -> None:
        if self is self.null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._refuse_in_capture(900)
        self._capture, self._invalid = [], False

    def is_capturing(self) -> bool:
        if self._capture is not None and self._invalid:
            raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
        return self._capture is not None

    def end_capture(self) -> Graph:
        if self._capture is None:
            raise RuntimeError("twin: end_capture() without begin_capture()")
        nodes, self._capture = self._capture, None
        if self._invalid:
            raise CUDARuntimeError(901)
        return Graph(self._streams, nodes)

    def _refuse_in_capture(self, status: int) -> None:
        if self._capture is not None:
            self._invalid = True
            raise CUDARuntimeError(status)

    def _advance(self) -> None:
        """Before each piece of work: what it comes after."""
        if lost := self._streams.lost:
            self._streams.lost = None
            raise RuntimeError(lost)
        _merge(self._seen, self._streams.host)
        null = self._streams.null
        if self is null:
            for other in self._streams.every:
                if other is not null and not other.is_non_blocking:
                    other._refuse_in_capture(906)
                    _merge(self._seen, other._seen | {other: other._clock})
        elif not self.is_non_blocking:
            _merge(self._seen, null._seen | {null: null._clock})
        self._clock += 1

    def _require_after(self, other: Stream, clock: int, what: str, verb: str) -> None:
        if other is not self and self._seen.get(other, 0) < clock:
            raise RuntimeError(
                f"twin: {what} uses memory that work of another stream {verb}, and nothing orders the two; "
                "wait for an event, or synchronize the other stream"
            )


class Event:
    """A point in a stream's work."""

    _streams: ClassVar[Streams]

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._clocks: dict[Stream, int] = {}
        self._captured_by: Stream | None = None  # the stream in whose capture it was recorded last
        self._time: float | None = None if disable_timing else -1.0  # -1: not recorded

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self._streams.current
        self._captured_by = stream if stream._capture is not None else None
        if not self._captured_by:
            stream._advance()
            self._clocks = stream._seen | {stream: stream._clock}
            if self._time is not None:
                self._time = time.perf_counter()

    @property
    def done(self) -> bool:
        self._recorded()
        return True

    def synchronize(self) -> None:
        _merge(self._streams.host, self._recorded())
        self._streams.counters.synchronizations += 1

    def _recorded(self) -> dict[Stream, int]:
        if self._captured_by:
            self._captured_by._refuse_in_capture(907)
        return self._clocks


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events: here the host's, which says nothing of a GPU."""
    times = start_event._time, end_event._time
    for when in times:
        if when is None or when < 0:
            raise CUDARuntimeError(400)
    return 1e3 * (times[1] - times[0])  # type: ignore[operator]


class Graph:
    """Work that was captured; made by Stream.end_capture()."""

    def __init__(self, streams: Streams, nodes: list[_Node]) -> None:
        self._streams, self._nodes = streams, nodes

    def launch(self, stream: Stream | None = None) -> None:
        """All of its work, in the order in which it was recorded."""
        stream = stream or self._streams.current
        if stream._capture is not None:
            raise RuntimeError("twin: a graph within a graph is not offered; if the backend needs it, add it")
        self._streams.replay(stream, self._nodes)
        self._streams.counters.graph_launches += 1
        self._streams.counters.graph_nodes += len(self._nodes)

    def upload(self, stream: Stream | None = None) -> None:
        (stream or self._streams.current)._refuse_in_capture(900)
