"""Scripts of the text tasks.

mlm.py and clm.py (masked and causal language models), classifier.py, token_classifier.py, preproc.py (preprocessing).
"""
