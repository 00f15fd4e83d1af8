"""Many users' jobs on one Spark application: a compiled simulator, its policies, environment and target."""
