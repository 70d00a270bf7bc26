"""From folders and files to numbered frames and pixels."""
