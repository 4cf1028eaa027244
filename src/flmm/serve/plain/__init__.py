"""The plain routes: ground, segment and attend."""
