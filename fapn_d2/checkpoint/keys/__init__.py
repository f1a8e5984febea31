"""Maps between the names of weights in other code and this project's, one file per source."""
