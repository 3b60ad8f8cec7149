"""Who waits for the model, in which order; and the sign by which a running request is told to stop."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LOST_AFTER = 8.0  # seconds without a question about its place after which a waiting page is not counted
FORGOTTEN_AFTER = 180.0  # and after which it is taken for closed; pages in the background ask once a minute


def new_ticket() -> str:
    """An unguessable name for one run of one session."""
    return uuid.uuid4().hex


def is_ticket(text: str) -> bool:
    """Whether a text that came from a page has the form of a ticket."""
    return re.fullmatch("[0-9a-f]{32}", text) is not None


@dataclass(eq=False)
class Place:
    """Of one ticket. seen: when its page was last heard of; wanted: what waits; owner: (session, tab), who may have one place
    only; ends: the moment at which a run expects to be done.
    """

    seen: float
    wanted: Any = None
    owner: tuple[Hashable, Hashable] | None = None
    running: bool = False
    ends: float | None = None


class Line:
    """The line before the model. Only the page's own runs wait in it; others just occupy the model.

    It holds what each of them is about, so that nothing of a run outlives it: what a session remembers is kept for an hour
    after its page was closed. All methods may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}  # by ticket, in order of arrival

    def join(self, ticket: str, wanted: Any, owner: Any = None) -> bool:
        """wanted: what is to be run, for `start` to hand out. False if the owner has a ticket already, which counts on."""
        with self._lock:
            now = self._clock()
            self._places = {t: p for t, p in self._places.items() if p.running or now - p.seen < FORGOTTEN_AFTER}
            if self._has(owner):
                return False
            self._places[ticket] = Place(now, wanted, owner)
            return True

    def start(self, ticket: str) -> Any:
        """What waits under a ticket, which runs from now on; None if nothing does: it left the line, or never joined."""
        with self._lock:
            place = self._places.get(ticket)
            if place is None or place.running:
                return None
            wanted, place.wanted, place.running = place.wanted, None, True
            return wanted

    def occupy(self, ticket: str) -> None:
        """Something that did not wait here takes the model."""
        with self._lock:
            self._places[ticket] = Place(self._clock(), running=True)

    def expect(self, ticket: str, seconds_left: float | None) -> None:
        """Notes how long a running ticket still takes."""
        with self._lock:
            if (place := self._places.get(ticket)) and place.running and seconds_left is not None:
                place.ends = self._clock() + seconds_left

    def leave(self, ticket: str) -> None:
        """Forgets a ticket, waiting, running or neither."""
        with self._lock:
            self._places.pop(ticket, None)

    def forget(self, session: Hashable) -> None:
        """A session is over: what waits of it does so no more. What runs sees to its own end."""
        with self._lock:
            self._places = {t: p for t, p in self._places.items() if p.running or not p.owner or p.owner[0] != session}

    def holds(self, ticket: str) -> bool:
        """Whether the ticket is waiting or running."""
        with self._lock:
            return ticket in self._places

    def serves(self, owner: Any) -> bool:
        """Whether somebody has a ticket that is waiting or running."""
        with self._lock:
            return self._has(owner)

    def _has(self, owner: Any) -> bool:
        return owner is not None and any(place.owner == owner for place in self._places.values())

    def ahead(self, ticket: str) -> int | None:
        """How many runs come before a waiting ticket, the running one included; None if it is not waiting.

        Asking is also how a page shows that it is still open.
        """
        with self._lock:
            mine = self._places.get(ticket)
            if mine is None or mine.running:
                return None
            now = mine.seen = self._clock()
            waiting = [place for place in self._places.values() if not place.running and now - place.seen < LOST_AFTER]
            return waiting.index(mine) + sum(place.running for place in self._places.values())

    def describe(self, ticket: str) -> str | None:
        """A sentence on the place of a waiting ticket, or None if it is not waiting."""
        ahead = self.ahead(ticket)
        if ahead is None:
            return None
        if ahead == 0:
            return "Next in line …"
        with self._lock:
            ends = [place.ends - self._clock() for place in self._places.values() if place.ends is not None]
        people = "one run is" if ahead == 1 else f"{ahead} runs are"
        about = f", free in about {max(ends):.0f} s" if ahead == 1 and ends and max(ends) >= 1 else ""
        return f"Waiting in line: {people} ahead of yours{about}."


class StopSign:
    """Tells a run to stop, across threads and processes: a file that appears.

    On shared graphics cards the run is in a process of its own, where a flag in memory would not be seen.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def of(cls, ticket: str) -> StopSign:
        return cls(_sign_folder() / ticket)

    def show(self) -> None:
        self.path.touch()

    def seen(self) -> bool:
        return self.path.exists()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@cache
def _sign_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dimoo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
