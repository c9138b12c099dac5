"""How well drift is told from chance, where the truth is known: ``make bench-drift``.

series    AR(1) series and what is done to them       product  DriftDetector's verdict on them
others    Evidently and alibi-detect, in an environment of their own, which environment makes
campaign  repetitions, rates and their intervals      cost     rows a second, a close, memory
report    tables and build/bench-drift.json
"""
