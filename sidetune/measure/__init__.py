"""What a method costs and what it reaches: parameters, memory, seconds, accuracy, and their pictures."""
