"""How many threads share a step where the user left that to the engine: as many as measurements say, here and now.

Beside other busy processes a team is slow: its threads wait for each other several times a step, and each of them may
be kept from its processor for milliseconds. Only measuring tells. No bit depends on the number, so what is measured is
the training itself: nothing is computed twice.
"""

from __future__ import annotations

import math

FIRST_SECONDS = 0.004  # how long a number is tried, starting its threads included
AGAIN_FOR_SECONDS = 0.04  # and a team that lost before: a system may start its threads on one processor
LONGEST_SECONDS = 0.064  # how long one that did well goes on before it is compared again
AGAIN_SECONDS = 0.5  # the least time before a number that lost is tried again, of calls of the kind
COST_SHARE = 0.02  # and the share of all their time that such trials may cost
CLOSE = 2.0  # a number that takes less than so many times as long as the best is measured twice before it has lost
WORTH = 1.2  # a team that is not so many times as fast as half of it has not been worth its other half


class TeamSize:
    """Chooses the number of threads for calls of one kind, whose times can be compared.

    count: the number that is in use, 0 at first. It begins with the most that there may be and is compared with its
    half, with the half of that where the difference is small, and with its double. Each is tried for some milliseconds;
    what a trial cost decides how soon it is repeated.
    """

    def __init__(self) -> None:
        self.count = 0
        self._now = 0.0  # the seconds of all calls; a clock that stands still between them
        self._tried = 0  # the number that is measured now: the count, or another
        self._work = self._seconds = 0.0  # what it has done since that began
        self._span = FIRST_SECONDS
        self._rates: dict[int, float] = {}  # the seconds for one unit of work that each number took when last measured
        self._due: dict[int, float] = {}  # when it may be tried again
        self._beaten: set[int] = set()

    def next(self, most: int) -> tuple[int, float]:
        """The number of threads to run in, of at most `most`, and for how many seconds before the next note()."""
        if not 0 < self.count <= most:
            self.count, self._span = most, FIRST_SECONDS
            self._try(most)
        elif self._tried > most:
            self._try(self.count)
        self._most = most
        return self._tried, self._limit() - self._seconds

    def work_in(self, seconds: float) -> float:
        """How much work takes so long; 0 where nothing has been measured."""
        rate = self._rates.get(self._tried) or min(self._rates.values(), default=0.0)
        return seconds / rate if rate else 0.0

    def note(self, work: float, seconds: float) -> None:
        """Take note that the number of next() did so much work in this time."""
        self._work += work
        self._seconds += seconds
        self._now += seconds
        if self._seconds < self._limit():
            return
        tried, now = self._tried, self._now
        self._rates[tried] = self._seconds / self._work
        best = min((count for count in self._rates if count <= self._most), key=self._rates.__getitem__)
        lost = self._seconds - self._work * self._rates[best]
        self._due[tried] = now + max(AGAIN_SECONDS, lost / COST_SHARE)
        if best != self.count:
            if self._rates[self.count] < CLOSE * self._rates[best] and self.count not in self._beaten:
                self._due[self.count] = now  # it may have been the start that was slow
            self._beaten.add(self.count)
            self.count, self._span = best, FIRST_SECONDS
        elif tried == best:
            self._span = min(2 * self._span, LONGEST_SECONDS)
        fewer = max(1, self.count // 2)
        while fewer > 1 and self._rates.get(fewer, math.inf) < WORTH * self._rates[self.count]:
            fewer //= 2
        others = {fewer, min(2 * self.count, self._most)} - {self.count}
        waiting = [count for count in sorted(others) if self._due.get(count, now) <= now]
        self._try(waiting[0] if waiting else self.count)

    def _try(self, count: int) -> None:
        self._tried, self._work, self._seconds = count, 0.0, 0.0

    def _limit(self) -> float:
        if self._tried == self.count:
            return self._span
        return AGAIN_FOR_SECONDS if 1 < self._tried in self._beaten else FIRST_SECONDS
