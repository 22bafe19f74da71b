"""What a config says: shapes, and the exact terms."""
