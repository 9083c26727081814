"""Plans, recipes, shapes and forecasts of runs, from fitted or published laws."""
