"""Processes that preprocess: results in order, bounded memory, and none that outlives its parent."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

AHEAD = 2  # items per process that are worked on or done before they are taken

T = TypeVar("T")
R = TypeVar("R")

_function: Any = None  # of a worker


def map_ordered(function: Callable[[T], R], items: Iterable[T], num_workers: int) -> Generator[R, None, None]:
    """Results of the items, in their order. Its workers end when it is closed (`contextlib.closing`).

    Args:
        function: each worker gets it once, so it may hold data.
        items: small ones, which are sent to the workers.
        num_workers: processes; with 1 all is done in this one.

    Raises:
        OSError: if a worker was killed. Errors of `function` as they are.
    """
    if num_workers == 1:
        yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    with ProcessPoolExecutor(num_workers, initializer=_start, initargs=(function,)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(_call, item))
                if len(pending) >= AHEAD * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            reason = "its memory may have been too little: try fewer processes, or fewer documents at a time"
            raise OSError(f"a preprocessing process was killed; {reason}") from error
        finally:
            for future in pending:
                future.cancel()


def _start(function: Any) -> None:
    """Runs in a worker at first."""
    global _function
    _function = function
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A worker that waits for work would not see that its parent was killed.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _call(item: Any) -> Any:
    return _function(item)
