"""A network laid out: its operations, where every array lives, and what a program minimises."""
