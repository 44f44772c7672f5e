"""Learning the reward: estimators, solvers, the dual-path net, failure detectors, schedules and searches."""
