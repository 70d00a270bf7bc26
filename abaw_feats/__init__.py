"""Frozen vision encoders over cropped face frames: extraction, pre-training, fine-tuning."""
