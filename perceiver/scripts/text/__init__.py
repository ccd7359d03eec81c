"""Training scripts of the text tasks: mlm.py (masked language model)."""
