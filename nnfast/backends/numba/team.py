"""The threads that share a program's steps: how many run a frame, and how they end early."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ...support.threads import fair_share, run_in_threads
from .frame import Frame
from .team_size import TeamSize


class Team:
    """A program's threads, at most `most`. measures: whether fewer of them run where that is faster.

    barrier: where they wait for each other. threads: how many the last call had, on average over its steps.
    """

    def __init__(self, most: int, measures: bool) -> None:
        from ...kernels.cpu import tables

        self._tables, self._most, self._measures = tables, most, measures
        self._sizes: dict[tuple[int, ...], TeamSize] = {}
        self.barrier = np.zeros(tables.BARRIER_SIZE, np.int64)
        self.threads = 1.0

    def run(self, frame: Frame, repaid: int, steps: int, mode: int, job: NDArray[np.int64]) -> None:
        """Run a frame in a fair share of the threads.

        repaid: how many threads have enough to do in one of its steps. job: the frame's.
        """
        with fair_share(self._most) as share:
            most = min(share, repaid)
            if most > 1 and self._measures:
                self._run_measured(frame, most, repaid, steps, mode, job)
            else:
                self._run_in(frame, most)
                self.threads = float(most)

    def _run_measured(self, frame: Frame, most: int, work: int, steps: int, mode: int, job: NDArray[np.int64]) -> None:
        """Run a frame in the number of threads that is the fastest now. work: of one step, in any unit."""
        tables = self._tables
        kind = mode, steps == 1, work.bit_length()  # a call of one step spends much of its time starting threads
        size = self._sizes.setdefault(kind, TeamSize())
        done = threaded = 0
        try:
            while done < steps:
                threads, seconds = size.next(most)
                end, start = steps, time.perf_counter()
                if threads == 1:
                    end = min(steps, done + max(1, int(size.work_in(seconds) / work)))
                if steps > 1:
                    job[tables.BEGIN], frame.numbers[tables.AT_STEPS] = done, end
                self._run_in(frame, threads, seconds)
                ran = (int(self.barrier[tables.STOPPED]) or end) - done
                size.note(ran * work, time.perf_counter() - start)
                done, threaded = done + ran, threaded + ran * threads
        finally:
            if steps > 1:
                job[tables.BEGIN], frame.numbers[tables.AT_STEPS] = 0, steps
        self.threads = threaded / steps

    def _run_in(self, frame: Frame, threads: int, seconds: float | None = None) -> None:
        """Run a frame in this number of threads. seconds: after which they end early, at a step's boundary."""
        barrier, tables = self.barrier, self._tables
        barrier[:] = 0

        def run_or_break(thread: int, threads: int) -> None:
            try:
                frame.run(thread, threads)
            except BaseException:
                barrier[tables.BROKEN] = 1  # the others would wait for this thread
                raise

        if seconds is None:
            run_in_threads(run_or_break, threads)
        else:
            run_in_threads(run_or_break, threads, seconds, lambda: barrier.__setitem__(tables.STOP, 1))
