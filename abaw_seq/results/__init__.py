"""Everything made from a trained run: predictions, scores, submissions, reports."""
