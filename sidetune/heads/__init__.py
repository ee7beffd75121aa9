"""What makes an answer of the taps that a task reads."""
