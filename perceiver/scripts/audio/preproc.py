"""`python -m perceiver.scripts.audio.preproc DATA ...` encodes music ahead of training: see `scripts/preproc.py`."""

from functools import partial

from perceiver.scripts import preproc

DATA_MODULES = preproc.DATA_MODULES["audio"]
main = partial(preproc.main, "audio")

if __name__ == "__main__":
    main()
