"""What is measured, and how backends are compared."""
