"""Data modules, preprocessors and collators, one package per domain: text, vision, audio, multimodal.

A data module is put together of parts: where raw data comes from (a source), what is kept of it (a cache), what an
example is, how a batch is made. It has one base of its domain, and that one has `DataModule`.

module.py     DataModule: the loaders, and the arguments that all data modules have
packing.py    documents of unequal length that share rows
loader.py     the training loader: order by (seed, epoch), resumable in the middle of an epoch
examples.py   Examples of a split, by (epoch, index), and those that lie in a cache
cache.py      what a source is; the folder of what was made of it, written once
workers.py    processes that preprocess
hub.py        data sets of the Hugging Face Hub as sources; validation data from those that have none
labels.py     labels, numbers or names, as numbers
streams.py    random numbers by (purpose, seed, epoch, example)
checks.py     arguments that are out of range
"""
