"""What a server would refuse in an archive, or score as nonsense: one function for each fault."""
