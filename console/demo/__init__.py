"""Demo: the main job in one command."""
