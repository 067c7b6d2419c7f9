"""Training (docs/method.md, Training): recipe, state, one pure step, its one pmap, loop, checkpoints."""
