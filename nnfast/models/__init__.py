"""A trained network: what it makes of the user's data, its history and its files."""
