"""Features kept, so that the frozen half runs once and not every epoch."""
