"""Training (spec section 6): recipe, state, one pure step, its one pmap, loop, checkpoints."""
