"""Vision and audio encoders, with dynamic and with fixed shapes."""
