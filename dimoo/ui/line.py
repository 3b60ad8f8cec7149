"""Who waits for the model, in which order; and the sign by which a running request is told to stop."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

LOST_AFTER = 8.0  # seconds without a question about its place after which a waiting page is not counted
FORGOTTEN_AFTER = 3600.0  # and after which it is taken for closed; pages in the background ask once a minute


def new_ticket() -> str:
    """An unguessable name for one run of one session."""
    return uuid.uuid4().hex


def is_ticket(text: str) -> bool:
    """Whether a text that came from a page has the form of a ticket."""
    return re.fullmatch("[0-9a-f]{32}", text) is not None


class Line:
    """The line before the model. Only the page's own runs wait in it; others just occupy the model.

    It holds what each of them is about, so that nothing of a run outlives it: what a session remembers is kept for an hour
    after its page was closed. All methods may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, float] = {}  # ticket -> when its page was last heard of, in order of arrival
        self._wanted: dict[str, Any] = {}  # ticket -> what waits under it
        self._owners: dict[str, Any] = {}  # ticket -> who may have one only, while it waits or runs
        self._running: dict[str, float | None] = {}  # ticket -> the moment at which it expects to be done

    def join(self, ticket: str, wanted: Any, owner: Any = None) -> bool:
        """wanted: what is to be run, for `start` to hand out. False if the owner has a ticket already, which counts on."""
        with self._lock:
            now = self._clock()
            self._waiting = {t: seen for t, seen in self._waiting.items() if now - seen < FORGOTTEN_AFTER}
            self._wanted = {t: its for t, its in self._wanted.items() if t in self._waiting}
            self._owners = {t: its for t, its in self._owners.items() if t in self._waiting or t in self._running}
            if owner is not None and owner in self._owners.values():
                return False
            self._waiting[ticket], self._wanted[ticket], self._owners[ticket] = now, wanted, owner
            return True

    def start(self, ticket: str) -> Any:
        """What waits under a ticket, which runs from now on; None if nothing does: it left the line, or never joined."""
        with self._lock:
            if self._waiting.pop(ticket, None) is None:
                return None
            self._running[ticket] = None
            return self._wanted.pop(ticket)

    def occupy(self, ticket: str) -> None:
        """Something that did not wait here takes the model."""
        with self._lock:
            self._running[ticket] = None

    def expect(self, ticket: str, seconds_left: float | None) -> None:
        """Notes how long a running ticket still takes."""
        with self._lock:
            if ticket in self._running and seconds_left is not None:
                self._running[ticket] = self._clock() + seconds_left

    def leave(self, ticket: str) -> None:
        """Forgets a ticket, waiting, running or neither."""
        with self._lock:
            self._waiting.pop(ticket, None)
            self._wanted.pop(ticket, None)
            self._running.pop(ticket, None)
            self._owners.pop(ticket, None)

    def holds(self, ticket: str) -> bool:
        """Whether the ticket is waiting or running."""
        with self._lock:
            return ticket in self._waiting or ticket in self._running

    def serves(self, owner: Any) -> bool:
        """Whether somebody has a ticket that is waiting or running."""
        with self._lock:
            return owner is not None and owner in self._owners.values()

    def ahead(self, ticket: str) -> int | None:
        """How many runs come before a waiting ticket, the running one included; None if it is not waiting.

        Asking is also how a page shows that it is still open.
        """
        with self._lock:
            if ticket not in self._waiting:
                return None
            now = self._waiting[ticket] = self._clock()
            open_pages = [t for t, seen in self._waiting.items() if now - seen < LOST_AFTER]
            return open_pages.index(ticket) + len(self._running)

    def describe(self, ticket: str) -> str | None:
        """A sentence on the place of a waiting ticket, or None if it is not waiting."""
        ahead = self.ahead(ticket)
        if ahead is None:
            return None
        if ahead == 0:
            return "Starting …"
        with self._lock:
            ends = [end - self._clock() for end in self._running.values() if end is not None]
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
