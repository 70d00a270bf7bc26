"""Features of every frame by frozen encoders, into one feature file."""
