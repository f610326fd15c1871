"""The graph every step works on: capture, names, roles of operators, statistics, saving, and the form it must have."""
