"""No garbage is collected while a block runs, in no thread of this process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class _Collection:
    """How many ask that no garbage be collected, in this process."""

    lock = Lock()
    n_asking = 0
    was_on = False


@contextmanager
def no_collection() -> Iterator[None]:
    """Put collection off until the last of those who ask has left its block."""
    with _Collection.lock:
        if _Collection.n_asking == 0:
            _Collection.was_on = gc.isenabled()
            gc.disable()
        _Collection.n_asking += 1
    try:
        yield
    finally:
        with _Collection.lock:
            _Collection.n_asking -= 1
            if _Collection.n_asking == 0 and _Collection.was_on:
                gc.enable()
