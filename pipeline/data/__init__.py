"""Data sets behind one protocol, controlled artifacts and the worlds they are seen in, splits, batches."""
