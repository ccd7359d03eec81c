"""Bases of the Lightning modules: a backend model, its loss, its checkpoints.

model.py           LitModel: hyper-parameters, loading, sharding, logging
classification.py  LitClassifier
causal.py          LitCausalSequenceModel: Perceiver AR, with samples
latents.py         NestedLatents: training for fewer latents at inference
"""
