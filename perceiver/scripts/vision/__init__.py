"""Scripts of the vision tasks: image_classifier.py and optical_flow.py."""
