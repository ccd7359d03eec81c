"""What the text models share."""
