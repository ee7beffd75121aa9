"""What the adapted features are for: a head, a loss, a metric, and what a prediction looks like."""
