"""Meta-optimisation: levers of deployed algorithms trained against ecosystem objectives."""
