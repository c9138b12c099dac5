"""The Faust agents: each moves chunks into the core's step and outputs out, nothing else."""
