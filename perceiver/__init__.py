"""Perceiver, Perceiver IO and Perceiver AR for PyTorch, Lightning and Hugging Face."""

__version__ = "1.0.0.dev0"
