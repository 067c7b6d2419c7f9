"""Attacks turned into answers: explanations, accuracy-robustness area, accuracy."""
