"""Data modules, preprocessors and collators, one package per domain: text, vision, audio, multimodal.

module.py     SplitLoaders: the loaders of a data module, over examples by split
loader.py     the training loader: order by (seed, epoch), resumable in the middle of an epoch
streams.py    random numbers by (purpose, seed, epoch, example)
"""
