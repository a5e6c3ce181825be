"""How many threads share a step where the user left that to the engine: as many as measurements say, here and now.

Beside other busy processes a team is slow: its threads wait for each other several times a step, and each of them may
be kept from its processor for milliseconds. Only measuring tells. No bit depends on the number, so what is measured is
the training itself: nothing is computed twice.
"""

from __future__ import annotations

import math

FIRST_SECONDS = 0.004  # how long one thread is tried, or a team that does badly, starting its threads included
SETTLED_SECONDS = 0.032  # and a team after that: a system may start its threads on one processor, and parts them later
LONGEST_SECONDS = 0.128  # how long a number that did well goes on before it is compared again
AGAIN_SECONDS = 0.5  # the least time before a number that lost is tried again, of calls of the kind
COST_SHARE = 0.02  # and the share of all their time that such trials may cost
BAD = 2.0  # a team that takes this many times the best number's time, or longer, has lost before it has settled
WORTH = 1.2  # a team that is not this many times as fast as half of it has not been worth its other half


class TeamSize:
    """Chooses the number of threads for calls of one kind, whose times can be compared.

    count: the number that is in use, 0 at first. It begins with one, for some milliseconds, and is compared with the
    most that there may be, then with the half and the double of what is in use, and with smaller numbers where the half
    is nearly as fast. What a trial cost decides how soon it is repeated.
    """

    def __init__(self) -> None:
        self.count = 0
        self._now = 0.0  # the seconds of all calls; a clock that stands still between them
        self._span = FIRST_SECONDS
        self._rates: dict[int, float] = {}  # the seconds for one unit of work that each number took when last measured
        self._due: dict[int, float] = {}  # when it may be tried again
        self._tried, self._is_unsettled = 1, False
        self._work = self._seconds = self._cost = 0.0

    def next(self, most: int) -> tuple[int, float]:
        """The number of threads to run in, of at most `most`, and for how many seconds before the next note()."""
        if not 0 < self.count <= most:
            self.count, self._span = min(self.count, most) or 1, FIRST_SECONDS
            self._try(self.count)
        elif self._tried > most:
            self._try(self.count)
        self._most = most
        return self._tried, self._limit() - self._seconds

    def work_in(self, seconds: float) -> float:
        """How much work takes so long; 0 where nothing has been measured."""
        rate = self._seconds / self._work if self._work else self._rates.get(self._tried, 0.0)
        return seconds / rate if rate else 0.0

    def note(self, work: float, seconds: float) -> None:
        """Take note that the number of next() did so much work in this time."""
        self._now += seconds
        self._work += work
        self._seconds += seconds
        if self._seconds < self._limit():
            return
        rate = self._seconds / self._work
        if self._tried != self.count:
            self._cost += self._seconds - self._work * min(self._rates.values(), default=rate)
        if self._is_unsettled and rate < BAD * min(self._rates.values()):
            self._work, self._seconds, self._is_unsettled = 0.0, 0.0, False
            return
        self._judge(rate)

    def _judge(self, rate: float) -> None:
        """Decide by what was measured of the number that was tried, and what is tried next."""
        tried, now = self._tried, self._now
        self._rates[tried] = rate
        best = min((count for count in self._rates if count <= self._most), key=self._rates.__getitem__)
        self._due[tried] = now + max(AGAIN_SECONDS, self._cost / COST_SHARE)
        if best != self.count:
            self.count, self._span = best, FIRST_SECONDS if best == 1 else SETTLED_SECONDS
        elif tried == best:
            self._span = min(2 * self._span, LONGEST_SECONDS)
        fewer = max(1, self.count // 2)
        while fewer > 1 and self._rates.get(fewer, math.inf) < WORTH * self._rates[self.count]:
            fewer //= 2
        others = {fewer, min(2 * self.count, self._most)} - {self.count}
        waiting = [count for count in sorted(others) if self._due.get(count, now) <= now]
        if self._most not in self._rates:
            waiting = [self._most]
        self._try(waiting[0] if waiting else self.count)

    def _try(self, count: int) -> None:
        self._tried = count  # the number that is measured now: the one in use, or another
        self._is_unsettled = count > 1 and count != self.count  # a team whose threads have just begun
        self._work = self._seconds = 0.0  # what it has done since that began
        self._cost = 0.0  # and how many seconds more than the best would have taken

    def _limit(self) -> float:
        if self._tried == self.count:
            return self._span
        return FIRST_SECONDS if self._tried == 1 or self._is_unsettled else SETTLED_SECONDS
