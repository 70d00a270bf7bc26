"""Annotations, feature files and the windows cut from them."""
