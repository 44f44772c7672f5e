"""What the data determine: uncertainty, feasible rewards, ambiguity, the hardest failures."""
