"""Long pieces of work, whatever they are: what is missing, a store to go on from, progress."""
