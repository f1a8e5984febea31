"""Commands of this project as jobs of a cluster."""
