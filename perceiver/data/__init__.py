"""Data modules, preprocessors and collators, one package per domain: `perceiver.data.text`."""
