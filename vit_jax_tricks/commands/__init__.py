"""Bodies of the commands: typed options in, library calls and printing out."""
