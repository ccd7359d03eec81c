"""Scripts of the multimodal tasks: autoencoder.py."""
