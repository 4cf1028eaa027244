"""Work on a Ray cluster: Ray schedules, what is on disk stays the truth."""
