"""Training of encoders: masked autoencoders without labels, fine-tuning with them."""
