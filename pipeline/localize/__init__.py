"""CAVs -> heatmaps -> artifact masks, and the foreground masks that ISNet training needs."""
