"""Bases of the Hugging Face models: a backend model in transformers' clothes.

config.py          PerceiverBackendConfig: a backend config in a `config.json`
model.py           PerceiverBackendModel: building and loading; embeddings.py: another number of tokens
body.py            PerceiverBody: the encoder of a Perceiver IO model, what `AutoModel` gives
forward.py         arguments and outputs that the forward passes of all models have
classification.py  PerceiverClassifier: names and number of classes, loss
perceiver_ar.py    PerceiverARModel: hidden states and caches of Perceiver AR; cache.py
generation.py      CausalSequenceGenerationModel: its forward pass with logits, and generation; contrastive.py,
                   generation_checks.py: what `generate` is asked for
names.py           parameter names of transformers' Perceiver and ours; official.py: reading its models
convert.py         the functions `convert_checkpoint` and `convert_model` of a task
saving.py          folders, tokenizers, uploads and model cards; folder.py: a folder is replaced as a whole
"""
