"""What separates a machine from its spec, noun by noun; pure functions, put in order by the planner."""
