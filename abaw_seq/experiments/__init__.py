"""Programs that train many models: cross-validation, recipes, trainings side by side."""
