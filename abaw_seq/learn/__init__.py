"""Losses and training programs."""
