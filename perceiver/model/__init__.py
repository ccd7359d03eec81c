"""Models: `core` has the generic parts, the other packages one task each (`backend`, `lightning`, `huggingface`)."""
