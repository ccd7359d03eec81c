"""Generic parts that every model is built from. Nothing here knows a task."""
