"""Checks for what a server would refuse, or accept with meaningless scores: one function for each fault."""
