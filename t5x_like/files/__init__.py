"""Reading lines and writing files, with the standard library alone."""
