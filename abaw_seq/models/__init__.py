"""Sequence models: temporal encoders, task heads and the frameworks that join them."""
