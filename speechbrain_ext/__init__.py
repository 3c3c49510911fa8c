"""Speaker verification for SpeechBrain: losses, backbones, data, scoring."""
