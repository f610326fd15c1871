"""The embedded default: a small trained network and the real images it was trained on, so that everything can be tried at once."""
