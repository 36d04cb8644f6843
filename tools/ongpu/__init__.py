"""What tools/gpu does: steps within a budget of time, and a report of them."""
