"""What hostile, broken and unusual but honest authors hand in, and how each must end."""
