"""The report of one or more runs: figures, and a page to scrub through the videos."""
