"""A strict stand-in for the part of CuPy that the CUDA backend uses, on NumPy arrays and emulated kernels.

`make_twin()` gives an object to use where the module `cupy` would be. The backend's own text runs on it
unchanged, so a whole training run can be compared with the NumPy backend without a GPU. It refuses what CuPy
refuses, and what CuPy does in silence but is a slip in our code: the message of the second kind begins with
"twin:". Fresh memory is NaN, so what is read before it is written shows. Streams, captured graphs and what they
refuse are in streams.py. Transfers, launches, operations, allocations and waits are counted. It proves nothing
about cuBLAS' rounding, asynchrony or speed.
"""

from collections import namedtuple
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.cuda import device
from tests.cuda.architectures import ARCHITECTURES, Architecture
from tests.cuda.raw import RawModule
from tests.cuda.streams import Counters, CUDARuntimeError, Memory, Stream, Streams

_SAME_AS_NUMPY = """
    float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_ dtype newaxis inf nan pi
""".split()  # noqa: SIM905
_ELEMENTWISE = """
    add subtract multiply divide power negative abs sign square sqrt exp expm1 log log1p tanh maximum minimum
    isfinite isnan greater greater_equal less less_equal equal not_equal logical_and logical_or logical_not
""".split()  # noqa: SIM905
_REDUCTIONS = ("sum", "mean", "max", "min", "argmax")
_PROPERTIES = ("shape", "dtype", "size", "ndim", "nbytes", "itemsize", "strides")
_ARITHMETIC = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power"}
_COMPARISONS = {"eq": "equal", "ne": "not_equal", "gt": "greater", "lt": "less"}
_COMPARISONS |= {"ge": "greater_equal", "le": "less_equal"}

Flags = namedtuple("Flags", "c_contiguous f_contiguous owndata")


def _supported(dtype: Any) -> np.dtype[Any]:
    dtype = np.dtype(dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or not dtype.isnative:
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


def _require_alike(host: np.ndarray, device: np.ndarray, verb: str) -> None:
    if host.dtype != device.dtype:
        raise TypeError(f"{host.dtype} array cannot be {verb} {device.dtype} array")
    if host.shape != device.shape:
        raise ValueError(f"Shape mismatch: {host.shape} cannot be {verb} {device.shape}")


class ndarray:  # noqa: N801 - CuPy's own name
    """A device array: its values are reached by `.get()`, `float()` and kernels only, never by NumPy.

    Its operators, reductions and plain properties are set below the class, from the tables above.
    """

    __slots__ = ("_host", "_memory", "_twin")
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # np.exp(dev) is refused; np.float32(2) * dev and host + dev come to our operators

    def __init__(self, host: np.ndarray, memory: Memory, twin: "Twin") -> None:
        self._host = host
        self._memory = memory
        self._twin = twin

    def _view(self, host: np.ndarray) -> "ndarray":
        return ndarray(host, self._memory, self._twin)

    def __repr__(self) -> str:
        return f"<device array {self._host.shape} {self._host.dtype}>"

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, function: Any, *args: Any) -> None:
        raise TypeError(f"twin: numpy.{function.__name__} was called on a device array; call the array module's")

    def __iter__(self) -> None:
        raise TypeError("twin: iteration over a device array costs a launch or a transfer per element")

    def __len__(self) -> int:
        return len(self._host)

    flags = property(lambda self: Flags(*(getattr(self._host.flags, name) for name in Flags._fields)))
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    T = property(lambda self: self._view(self._host.T))
    device = property(lambda self: self._twin.cuda.Device(0))

    # To and from the host

    def get(self, stream: Any = None, order: Any = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if out is not None:
            if not isinstance(out, np.ndarray):
                raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
            _require_alike(out, self._host, "obtained from")
            if not (out.flags.c_contiguous or out.flags.f_contiguous):
                raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        if not blocking:
            raise ValueError("twin: a copy to the host that is not waited for is not offered; if needed, add it")
        self._twin._fetch(self, stream)
        if out is None:
            return self._host.copy(order)
        out[...] = self._host
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        _require_alike(arr, self._host, "set to")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        if not arr.flags.c_contiguous:
            raise ValueError("twin: CuPy would send a copy of a strided array, and give it up too early")
        self._twin._send(self, stream)
        self._twin._streams.borrow(arr, stream or self._twin._streams.current)
        self._host[...] = arr

    # Views and copies

    def reshape(self, *shape: Any) -> "ndarray":
        return self._twin._view_or_copy(self, self._host.reshape(*shape))

    def ravel(self) -> "ndarray":
        return self._twin._view_or_copy(self, self._host.ravel())

    def astype(self, dtype: Any, copy: bool = True) -> "ndarray":
        if not copy and self._host.dtype == np.dtype(dtype):
            return self
        return self._twin._apply(lambda host: host.astype(_supported(dtype)), self)

    def copy(self) -> "ndarray":
        return self._twin._apply(lambda host: host.copy(), self)

    def fill(self, value: Any) -> None:
        self[...] = value

    def __getitem__(self, key: Any) -> "ndarray":
        items, arrays = self._twin._index(key)
        if not arrays:
            # The ellipsis keeps an element a 0-d view, as on the device; NumPy alone would copy it out.
            return self._view(self._host[items if Ellipsis in items else (*items, Ellipsis)])
        for array in arrays:
            if array.dtype == np.bool_:
                self._twin._fetch(array, None, nbytes=8)  # CuPy fetches the number of hits: the result's shape
        return self._twin._apply(lambda host, *hosts: host[_with_hosts(items, hosts)], self, *arrays)

    def __setitem__(self, key: Any, value: Any) -> None:
        items, arrays = self._twin._index(key)

        def assign(target: np.ndarray, value: Any, *hosts: np.ndarray) -> None:
            target[_with_hosts(items, hosts)] = value

        self._twin._change(assign, self, value, *arrays)


def _with_hosts(items: tuple[Any, ...], hosts: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    """An index, NumPy's arrays in the places of the device's."""
    left = iter(hosts)
    return tuple(next(left) if isinstance(item, ndarray) else item for item in items)


def _delegate(name: str, *, reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
    """A method of an array that calls the module's function of that name."""

    def method(self: ndarray, *args: Any, **kwargs: Any) -> ndarray:
        operands = (*args, self) if reflected else (self, *args)
        return getattr(self._twin, name)(*operands, **({"out": self} if in_place else kwargs))

    return method


def _fetch(name: str) -> Callable[[ndarray], Any]:
    return lambda self: getattr(self.get(), name)()


for _name in _PROPERTIES:
    setattr(ndarray, _name, property(attrgetter(f"_host.{_name}")))
for _name in ("__float__", "__int__", "__bool__", "item"):
    setattr(ndarray, _name, _fetch(_name))
for _name in (*_REDUCTIONS, "clip", "take", "dot"):
    setattr(ndarray, _name, _delegate(_name))
for _name, _function in (_COMPARISONS | _ARITHMETIC | {"neg": "negative", "abs": "abs", "matmul": "matmul"}).items():
    setattr(ndarray, f"__{_name}__", _delegate(_function))
for _name, _function in (_ARITHMETIC | {"matmul": "matmul"}).items():
    setattr(ndarray, f"__r{_name}__", _delegate(_function, reflected=True))
for _name, _function in _ARITHMETIC.items():
    setattr(ndarray, f"__i{_name}__", _delegate(_function, in_place=True))


class Twin:
    """The module object. Make one with `make_twin()`; `counters` and `shared_parts` are all it has that CuPy has not.

    shared_parts: by the bytes of dynamic shared memory, the parts that a kernel cuts it into (see emulator.Kernel).
    """

    __name__ = "cupy"
    __spec__ = ModuleSpec("cupy", None)  # importlib.util.find_spec asks a stand-in in sys.modules for it
    __version__ = "14.0.0"

    def __init__(self, order: str, devices: int, architecture: Architecture, memory: int) -> None:
        self._order, self._devices, self._architecture = order, devices, architecture
        self._memory = memory
        self._launches = 0
        self.ndarray = ndarray
        self.counters = Counters()
        self.shared_parts: dict[int, list[tuple[int, int]]] = {}
        self._streams = Streams(self.counters, lambda value: isinstance(value, ndarray), self._require_device)
        self._pool = device.Pool(memory)
        self.cuda = device.make_cuda(devices, architecture, self._pool, self._streams)
        self.RawModule = partial(RawModule, self)
        for name in _SAME_AS_NUMPY:
            setattr(self, name, getattr(np, name))
        for name in _ELEMENTWISE:
            setattr(self, name, partial(self._elementwise, getattr(np, name)))
        for name in _REDUCTIONS:
            setattr(self, name, partial(self._reduce, getattr(np, name)))
        self.matmul = partial(self._product, np.matmul)
        self.dot = partial(self._product, np.dot)
        self._core = SimpleNamespace(
            get_compute_type=self._get_compute_type,
            set_compute_type=self._set_compute_type,
            _routines_linalg=SimpleNamespace(COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7),
        )
        self._compute_type = 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"twin: {name!r} is not offered; if CuPy has it and the backend needs it, add it")

    def __reduce__(self) -> tuple[Any, ...]:
        """As CuPy in another process: a fresh one."""
        return Twin, (self._order, self._devices, self._architecture, self._memory)

    def is_available(self) -> bool:
        return self._devices > 0

    def get_default_memory_pool(self) -> SimpleNamespace:
        return SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: self._pool.used)

    # What products of float32 round their factors to; here nothing is rounded, and the setting can be read.

    def _get_compute_type(self, dtype: Any) -> int:
        assert np.dtype(dtype) == np.float32
        return self._compute_type

    def _set_compute_type(self, dtype: Any, compute_type: int) -> None:
        assert np.dtype(dtype) == np.float32
        self._compute_type = compute_type

    # Creation

    def empty(self, shape: Any, dtype: Any = float) -> ndarray:
        dtype = _supported(dtype)
        return self._allocated(np.full(shape, np.iinfo(dtype).max if dtype.kind in "iu" else np.nan, dtype))

    def empty_like(self, prototype: ndarray, dtype: Any = None) -> ndarray:
        return self.empty(self._unwrap_array(prototype).shape, dtype or prototype.dtype)

    def full(self, shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
        return self._apply(lambda value: np.full(shape, value, dtype and _supported(dtype)), fill_value)

    def zeros(self, shape: Any, dtype: Any = float) -> ndarray:
        return self.full(shape, 0, dtype)

    def zeros_like(self, a: ndarray, dtype: Any = None) -> ndarray:
        return self.full(self._unwrap_array(a).shape, 0, dtype or a.dtype)

    def ones(self, shape: Any, dtype: Any = float) -> ndarray:
        return self.full(shape, 1, dtype)

    def arange(self, start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
        bounds = (0, start) if stop is None else (start, stop)
        return self._apply(partial(np.arange, dtype=dtype), *bounds, step)

    def array(self, obj: Any, dtype: Any = None, copy: bool = True) -> ndarray:
        if isinstance(obj, ndarray):
            return obj.astype(dtype or obj.dtype, copy)
        host = np.array(obj, dtype)
        _supported(host.dtype)
        array = self._allocated(host)
        self._send(array, None)
        return array

    def asarray(self, a: Any, dtype: Any = None) -> ndarray:
        return self.array(a, dtype, copy=False)

    def ascontiguousarray(self, a: ndarray, dtype: Any = None) -> ndarray:
        return self._view_or_copy(a, np.ascontiguousarray(self._unwrap_array(a), dtype))

    def concatenate(self, tup: Any, axis: int = 0) -> ndarray:
        return self._apply(lambda *hosts: np.concatenate(hosts, axis), *tup)

    def asnumpy(self, a: Any, stream: Any = None, order: str = "C", out: Any = None) -> np.ndarray:
        return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)

    # Computation

    def _elementwise(self, function: np.ufunc, *operands: Any, out: Any = None, dtype: Any = None) -> ndarray:
        if len(operands) != function.nin:
            raise TypeError(f"twin: {function.__name__} takes {function.nin} operands, and the output as out=")
        return self._apply(partial(function, dtype=dtype), *operands, out=out)

    def _reduce(self, function: Any, a: ndarray, axis: Any = None, *, out: Any = None, **options: Any) -> ndarray:
        if unknown := options.keys() - {"keepdims", "dtype"}:
            raise TypeError(f"{function.__name__} got unexpected keyword arguments {sorted(unknown)}")
        self._unwrap_array(a)
        self._streams.require_no_capture(
            RuntimeError(f"twin: {function.__name__} may take memory for its parts, which a graph would not keep")
        )
        return self._apply(partial(function, axis=axis, **options), a, out=out)

    def _product(self, function: Any, a: ndarray, b: ndarray, out: Any = None) -> ndarray:
        factors = self._unwrap_array(a), self._unwrap_array(b)
        if a.dtype != b.dtype:
            raise TypeError(f"twin: a product of {a.dtype} and {b.dtype} converts one of them in a hidden copy")
        if out is not None:
            target = self._unwrap_array(out)
            if not target.flags.c_contiguous:
                raise ValueError("Output array must be C-contiguous")
            if any(np.may_share_memory(target, factor) for factor in factors):
                raise ValueError("twin: out= overlaps a factor, so CuPy would make a hidden copy")
        self._streams.require_no_capture(
            NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        )
        return self._apply(function, a, b, out=out)

    def where(self, condition: ndarray, x: Any, y: Any) -> ndarray:
        self._unwrap_array(condition)
        return self._apply(np.where, condition, x, y)

    def take(self, a: ndarray, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
        # CuPy wraps an index that is out of bounds; here it is an IndexError.
        self._unwrap_array(a)
        return self._apply(partial(np.take, axis=axis), a, indices, out=out)

    def clip(self, a: ndarray, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
        self._unwrap_array(a)
        bounds = [bound for bound in (a_min, a_max) if bound is not None]

        def clip(host: np.ndarray, *bounds: Any) -> np.ndarray:
            left = iter(bounds)
            return np.clip(host, *(None if bound is None else next(left) for bound in (a_min, a_max)))

        return self._apply(clip, a, *bounds, out=out)

    def copyto(self, dst: ndarray, src: Any, casting: Any = "same_kind") -> None:
        self._unwrap_array(dst)
        self._change(partial(np.copyto, casting=casting), dst, src)

    # The boundary between device arrays and the host's

    def _unwrap(self, value: Any) -> Any:
        if isinstance(value, ndarray):
            if value._twin is not self:
                raise TypeError("twin: an array of another twin")
            return value._host
        if isinstance(value, bool | int | float | np.generic):
            return value
        raise TypeError(f"Unsupported type {type(value)}")

    def _unwrap_array(self, value: Any) -> np.ndarray:
        if isinstance(value, ndarray):
            return self._unwrap(value)
        raise TypeError(f"Unsupported type {type(value)}: a device array is needed")

    def _index(self, key: Any) -> tuple[tuple[Any, ...], list[ndarray]]:
        """The key as a tuple, and the arrays in it (if there are any, the result is a copy)."""
        items = key if isinstance(key, tuple) else (key,)
        for item in items:
            if isinstance(item, np.ndarray | list):
                raise TypeError(f"twin: an index of type {type(item)} is a hidden transfer to the device")
        return items, [item for item in items if isinstance(item, ndarray)]

    # Work: on the current stream, done at once or captured

    def _apply(self, function: Callable[..., Any], *operands: Any, out: Any = None) -> ndarray:
        """One array operation: a reduction gives a 0-d array, and NumPy's warnings are off, as on a GPU."""
        hosts = [self._unwrap(operand) for operand in operands]
        if out is None:
            self._refuse_allocation()
        with np.errstate(all="ignore"):
            result = np.asarray(function(*hosts))
        if out is None:
            out = self._allocated(result)
        target = self._unwrap_array(out)
        if target.shape != result.shape:
            raise ValueError(f"Out shape is mismatched: {target.shape}, but the result is {result.shape}")
        if target.dtype != result.dtype:
            raise TypeError(f"twin: out= is {target.dtype}, but the result is computed as {result.dtype}")

        if self._streams.current.is_capturing():  # its inputs may have other values when it runs
            self._change(lambda target, *hosts: np.copyto(target, function(*hosts)), out, *operands)
        else:
            self._change(lambda target, *hosts: np.copyto(target, result), out, *operands)
        return out

    def _change(self, work: Callable[..., None], target: ndarray, *operands: Any) -> None:
        """One operation on a whole array: `work(target, *operands)`."""
        for operand in operands:
            self._unwrap(operand)

        def quietly(*hosts: Any) -> None:
            with np.errstate(all="ignore"):
                work(*hosts)

        writes = [True, *(False for _ in operands)]
        self._streams.issue("an array operation", "array_operations", quietly, [target, *operands], writes)

    def _fetch(self, array: ndarray, stream: Stream | None, nbytes: int | None = None) -> None:
        """A copy to the host, and the wait for it."""
        stream = stream or self._streams.current
        self._streams.require_no_capture(
            RuntimeError("the current stream is capturing, so D2H transfers are disallowed"), stream
        )
        stream._advance()
        self._streams.use(stream, "a copy to the host", array, is_written=False)
        stream.synchronize()
        self.counters.device_to_host += 1
        self.counters.bytes_to_host += array.nbytes if nbytes is None else nbytes

    def _send(self, array: ndarray, stream: Stream | None) -> None:
        """A copy from the host."""
        stream = stream or self._streams.current
        self._streams.require_no_capture(
            RuntimeError("the current stream is capturing, so H2D transfers are disallowed"), stream
        )
        stream._advance()
        self._streams.use(stream, "a copy from the host", array, is_written=True)
        self.counters.host_to_device += 1
        self.counters.bytes_to_device += array.nbytes

    def _require_device(self) -> None:
        if not self._devices:
            raise CUDARuntimeError(100)

    def _refuse_allocation(self) -> None:
        self._streams.require_no_capture(
            RuntimeError("twin: memory allocated in a capture is the pool's again when the graph runs; pass out=")
        )

    def _allocated(self, host: np.ndarray) -> ndarray:
        self._require_device()
        self._refuse_allocation()
        memory = Memory(host)
        self._pool.take(memory)
        self.counters.allocations += 1
        return ndarray(host, memory, self)

    def _view_or_copy(self, source: ndarray, host: np.ndarray) -> ndarray:
        if np.may_share_memory(source._host, host):
            return source._view(host)
        return self._apply(lambda _: host, source)


def make_twin(order: str = "forward", devices: int = 1, architecture: str = "sm_80", memory: int = 8 << 30) -> Twin:
    """A fresh stand-in whose kernels run their threads in that order (emulator.ORDERS), on `devices` GPUs.

    architecture: of ARCHITECTURES, which decides how much shared memory a block can have; memory: bytes that the
    devices have together. Arrays of two twins do not mix. With `devices=0` it is CuPy on a machine with a driver and
    no GPU.
    """
    return Twin(order, devices, ARCHITECTURES[architecture], memory)
