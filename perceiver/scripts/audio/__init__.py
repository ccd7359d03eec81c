"""Scripts of symbolic audio: symbolic.py (training), preproc.py (preprocessing)."""
