"""`python -m perceiver.scripts.text.preproc DATA ...` preprocesses text ahead of training: see `scripts/preproc.py`."""

from functools import partial

from perceiver.scripts import preproc

DATA_MODULES = preproc.DATA_MODULES["text"]
main = partial(preproc.main, "text")

if __name__ == "__main__":
    main()
