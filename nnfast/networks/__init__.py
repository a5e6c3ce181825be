"""What to compute: a network and its layers, as frozen data without arrays."""
