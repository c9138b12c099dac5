"""How well detection works, on data whose truth is known: ``make bench-detection``.

cases      what is measured on: readings for training and test, truth, which half of the research
public     AI4I 2020, SKAB valve1 and NAB, where DRIFTDETECTOR_DATA says they are
fleets     synthetic fleets with known faults       simulated  the simulator's machines
detectors  the interface, blind baselines, a rolling z-score, an isolation forest
product    DriftDetector itself, through the functions that the command line calls
metrics    rows, events, slices                     nab        NAB's own rules of scoring
report     tables and build/bench-detection.json
"""
