"""Where a run's files live: run directory, manifest, content hashes, atomic writes, records."""
