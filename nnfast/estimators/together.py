"""together(): the fits of scikit-learn's searches, validations and ensembles as threads of this process, by joblib."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from joblib import parallel_config
from joblib.parallel import BatchedCalls, FallbackToBackend, ParallelBackendBase, SequentialBackend
from sklearn import config_context, get_config
from threadpoolctl import threadpool_limits

from ..support.threads import check_threads, share_kept, thread_count


@contextlib.contextmanager
def together(threads: int | None = None) -> Iterator[None]:
    """Run the fits of scikit-learn's own tools as threads of this process.

    Within it, whatever takes `n_jobs` in scikit-learn (GridSearchCV, RandomizedSearchCV, the halving searches,
    cross_val_score, BaggingClassifier, StackingClassifier, OneVsRestClassifier, ...) fits nnfast's estimators at once,
    each in one thread of the engine, or in more where fewer fits are left than `threads`. The results are those of
    `n_jobs=1`. No process is started, and X and y are not copied to one. An `n_jobs` that is not None still counts.

    Parallel calls of what runs in one of these threads are sequential. The threads end with the call that started them.
    After Ctrl-C each of them ends at its next line of Python, which in a fit of nnfast is within 0.2 s.

    Parameters
    ----------
    threads : int or None, default=None
        How many fits run at once. By default what NNFAST_NUM_THREADS or OMP_NUM_THREADS says, else every processor.

    Raises
    ------
    TypeError, ValueError
        `threads` is no integer in 1..1024.

    Notes
    -----
    It holds for the thread that enters it, as joblib's own contexts do. Python's warning filters belong to the whole
    process, and scikit-learn sets them anew in every task.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from nnfast import MLPClassifier, together
    >>> X, y = load_digits(return_X_y=True)
    >>> search = GridSearchCV(MLPClassifier(early_stopping=True, random_state=0), {"alpha": [0.0001, 0.01]})
    >>> with together():
    ...     search = search.fit(X / 16, y)
    """
    count = thread_count(check_threads(threads))
    with parallel_config(backend=ThreadsBackend(count), n_jobs=count):
        yield


class Abandoned(BaseException):
    """Ends a task whose result is no longer wanted. Neither scikit-learn's error_score nor a fit holds it back."""


class Crew:
    """Threads that work at the tasks of one parallel call, each with a share of the engine's threads."""

    def __init__(self, size: int, blas_threads: int) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="nnfast-together")
        self._lock = threading.Lock()
        self._at_work: set[int] = set()
        self._config = get_config()  # which is a thread's own
        self._is_abandoned = False
        self._settings = contextlib.ExitStack()
        self._settings.enter_context(kept_settings(blas_threads))

    def submit(self, task: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None) -> Future[Any]:
        with self._lock:
            # A task that ends submits the next one, maybe while another thread abandons them all
            future = Future[Any]() if self._is_abandoned else self._pool.submit(self._work, task)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _work(self, task: Callable[[], Any]) -> Any:
        thread = threading.get_ident()
        with share_kept():
            try:
                with self._lock:
                    if self._is_abandoned:
                        raise Abandoned
                    self._at_work.add(thread)
                with config_context(**self._config):
                    return task()
            finally:
                with self._lock:  # what abandon() raised here is raised before this block ends, and not after it
                    self._at_work.discard(thread)

    def abandon(self) -> None:
        """End the tasks at their next line of Python, and wait until they have."""
        with self._lock:
            self._is_abandoned = True
            for thread in self._at_work:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Abandoned))
        self.dismiss()

    def dismiss(self) -> None:
        with self._settings:
            self._pool.shutdown(cancel_futures=True)


_crews, _crews_lock, _settings = 0, threading.Lock(), contextlib.ExitStack()


@contextlib.contextmanager
def kept_settings(blas_threads: int) -> Iterator[None]:
    """Keep what belongs to the whole process from the start of the first of several crews to the end of the last.

    The filters of warnings are restored: scikit-learn's tasks set them, and then restore what they found, which may be
    another task's. BLAS has few threads, as in joblib's processes.
    """
    global _crews
    with _crews_lock:
        if not _crews:
            _settings.enter_context(warnings.catch_warnings())
            _settings.enter_context(threadpool_limits(blas_threads, "blas"))
        _crews += 1
    try:
        yield
    finally:
        with _crews_lock:
            _crews -= 1
            if not _crews:
                _settings.close()


class ThreadsBackend(ParallelBackendBase):
    """joblib's parallel calls in the threads of a Crew. threads: what n_jobs=-1 means."""

    supports_retrieve_callback = True
    uses_threads = True
    supports_sharedmem = True

    def __init__(self, threads: int, nesting_level: int | None = None) -> None:
        super().__init__(nesting_level=nesting_level)
        self._threads = threads
        self._n_jobs = 0
        self._crew: Crew | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, self._threads + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        if self._n_jobs:  # by another call, which is not over
            raise FallbackToBackend(ThreadsBackend(self._threads, self.nesting_level))
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel, self._n_jobs = parallel, n_jobs
        return n_jobs

    def submit(self, func: BatchedCalls, callback: Callable[[Future[Any]], Any] | None = None) -> Future[Any]:
        func.items = [(_unwrapped(function), args, kwargs) for function, args, kwargs in func.items]
        if self._crew is None:
            self._crew = Crew(self._n_jobs, max(1, self._threads // self._n_jobs))
        return self._crew.submit(func, callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        if self._crew is not None:
            self._crew.abandon()

    def stop_call(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.dismiss()

    def terminate(self) -> None:
        self._n_jobs = 0

    def get_nested_backend(self) -> tuple[Any, None]:
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, where scikit-learn has wrapped it to set its configuration and the filters of warnings.

    It clears the filters and sets them again, for a new process. Here they are set, and other threads would meanwhile
    have none.
    """
    if hasattr(function, "with_config_and_warning_filters"):
        return function.__wrapped__  # type: ignore[attr-defined]
    return function
