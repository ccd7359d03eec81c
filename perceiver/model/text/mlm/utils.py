"""The former path of `perceiver.model.text.mlm.mask_filler`."""

from perceiver.moved import moved_names

__getattr__ = moved_names(__name__)
