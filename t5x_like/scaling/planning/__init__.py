"""Plans and forecasts of runs from fitted or published laws."""
