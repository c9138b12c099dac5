"""What episodes are worth: held against known faults, against another side, against conditions.

Pure functions over tables; only ``truth.py`` reads files.
"""
