"""The compute code, by processor."""
