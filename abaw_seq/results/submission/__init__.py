"""The official submission files: written, checked and read back."""
