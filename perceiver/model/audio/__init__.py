"""Models of symbolic audio."""
