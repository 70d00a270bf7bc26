"""Reading: from folders and files to numbered frames, and from frames to the input of a network."""
