"""What stays in memory until Python looks for garbage."""

import gc
import weakref
from collections.abc import Callable


def keeps_its_caller(function: Callable[[], object]) -> bool:
    """Whether the variables of who calls it stay when that one has returned, and until garbage is collected."""

    class Variable:
        pass

    def caller() -> weakref.ref[Variable]:
        kept = Variable()
        function()
        return weakref.ref(kept)

    gc.disable()
    try:
        return caller()() is not None
    finally:
        gc.enable()
