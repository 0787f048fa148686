"""Everything that was found -> one HTML file, one JSON file, a gate with an exit code."""
