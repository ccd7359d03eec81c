"""Bases of the Hugging Face models: a backend model in transformers' clothes.

config.py          PerceiverBackendConfig: a backend config in a `config.json`
model.py           PerceiverBackendModel: building, loading, saving, token embeddings
classification.py  PerceiverClassifier: names and number of classes, loss
generation.py      CausalSequenceGenerationModel: forward pass and generation of Perceiver AR; contrastive.py
names.py           parameter names of transformers' Perceiver and ours; official.py: reading its models
card.py            model cards
"""
