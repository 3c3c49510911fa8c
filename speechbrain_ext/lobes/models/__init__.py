"""Speaker encoders, one family a file."""
