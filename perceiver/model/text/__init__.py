"""Text models: `mlm` masked language model."""
