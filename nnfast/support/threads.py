"""How many threads a computation may use, and running it in them.

The count is a ceiling for all of a process's computations together: two that run at once share it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .checks import check_integer
from .interruption import postponed

# The first of these that is set gives the count; tools that start many processes set OMP_NUM_THREADS in each.
VARIABLES = ("NNFAST_NUM_THREADS", "OMP_NUM_THREADS")
MAX_THREADS = 1024

# A container's share of the processors: microseconds of work, or "max", and of time (Linux, cgroup v2)
QUOTA = Path("/sys/fs/cgroup/cpu.max")

_running: set[int] = set()  # the threads in which computations run
_keeping: set[int] = set()  # and those that keep their share between computations


def check_threads(threads: Any) -> int | None:
    """`threads` as a user may give it: a positive integer, or None for thread_count()'s default."""
    return None if threads is None else check_integer(threads, "threads", 1, MAX_THREADS)


def thread_count(threads: int | None = None) -> int:
    """The threads to use: `threads`, or what NNFAST_NUM_THREADS or OMP_NUM_THREADS says, or the processors there are.

    Raises ValueError where NNFAST_NUM_THREADS is no positive integer.
    """
    if threads is not None:
        return threads
    for variable in VARIABLES:
        text = os.environ.get(variable, "")
        if text.isdecimal() and 1 <= int(text) <= MAX_THREADS:
            return int(text)
        if text and variable == VARIABLES[0]:
            raise ValueError(f"{variable} must be an integer in 1..{MAX_THREADS}, got {text!r}")
    return processor_count()


def is_chosen(threads: int | None) -> bool:
    """Whether the user chose thread_count(threads) for this engine; else it is a ceiling, below which it may choose."""
    return threads is not None or bool(os.environ.get(VARIABLES[0]))


def processor_count() -> int:
    """The processors that this process may use: those it is bound to, or fewer where a container's quota says so."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        count = min(count, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        pass
    return count


@contextmanager
def fair_share(count: int) -> Iterator[int]:
    """`count` threads, divided by the threads of this process in which a computation runs now."""
    # A set, and no counter: what an interruption between two of these lines leaves in it, this thread's next
    # computation takes out.
    thread = threading.get_ident()
    try:
        _running.add(thread)
        yield max(1, count // len(_running | _keeping))
    finally:
        _running.discard(thread)


@contextmanager
def share_kept() -> Iterator[None]:
    """Within this, the thread counts as one in which a computation runs, also between its computations.

    So several threads with a long job each do not take each other's processors at every start.
    """
    thread = threading.get_ident()
    try:
        _keeping.add(thread)
        yield
    finally:
        _keeping.discard(thread)


def _forget() -> None:
    """In a forked process nothing runs, whatever its parent was doing."""
    _running.clear()
    _keeping.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run_in_threads(
    function: Callable[[int, int], Any], count: int, seconds: float | None = None, stop: Callable[[], Any] = int
) -> None:
    """Call function(number, count) for number = 0, ..., count - 1, each in a thread of its own; return when all have.

    The threads may wait for each other: they start together or not at all. Where the system gives no more of them,
    there are fewer, and each is told so. Where they are not done after `seconds`, stop() is called, which asks them to
    end. Raises what a call raised. Ctrl-C, and what a signal's handler raises, wait until all are done.
    """
    if count == 1:
        function(0, 1)
        return
    gate = threading.Event()
    started: list[tuple[threading.Thread, threading.Event]] = []
    errors: list[BaseException] = []
    team = 0  # until all have started

    def work(number: int, done: threading.Event) -> None:
        try:
            gate.wait()
            if number < team:
                function(number, team)
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    with postponed():
        try:
            for number in range(count):
                done = threading.Event()
                thread = threading.Thread(target=work, args=(number, done), daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # "can't start new thread"
                    break
                started.append((thread, done))
            team = len(started)
        finally:
            _release(gate, started, seconds, stop)
    if errors:
        raise errors[0]
    if not started:
        function(0, 1)


def _release(
    gate: threading.Event,
    started: list[tuple[threading.Thread, threading.Event]],
    seconds: float | None,
    stop: Callable[[], Any],
) -> None:
    """Let the threads go, and wait for them: they use the caller's arrays. Then raises what a signal's handler did."""
    interruption = None
    while True:
        try:
            gate.set()
            if seconds is not None and not all(done.wait(seconds) for _, done in started[:1]):
                stop()
            for thread, done in started:
                done.wait()  # Thread.join, interrupted, would take the thread for dead (CPython issue 90882)
                thread.join()
            break
        except BaseException as error:
            interruption = error
    if interruption:
        raise interruption


@cache
def give_way_address() -> int:
    """The address of the operating system's function that lets another thread run."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address
