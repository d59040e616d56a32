"""Looking at what a model sees and does: sheets, maps, counts, profiles."""
