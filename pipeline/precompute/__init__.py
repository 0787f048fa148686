"""Model and data -> activations, relevances and heatmaps in HDF5."""
