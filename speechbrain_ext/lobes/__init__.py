"""Features and speaker encoders."""
