"""Makes a task known to transformers' Auto classes when its package is imported, where transformers is installed."""

from importlib.util import find_spec

from perceiver.tasks import FOREIGN, TASKS


def register(name: str) -> None:
    """Registers the config of a task or a foreign model, and with it, as soon as one is made, the model.

    Modeling code of transformers takes seconds to import, so that it waits until it is needed.
    """
    if find_spec("transformers") is not None:
        from perceiver.model.huggingface.config import register_config

        register_config(TASKS[name] if name in TASKS else FOREIGN[name])
