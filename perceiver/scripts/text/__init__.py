"""Scripts of the text tasks: mlm.py (masked language model), clm.py (causal language model)."""
