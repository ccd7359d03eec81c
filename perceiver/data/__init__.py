"""Data modules, preprocessors and collators, one package per domain: text, vision, audio, multimodal."""
