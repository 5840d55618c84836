"""Console: what a person touches (floor 3)."""
