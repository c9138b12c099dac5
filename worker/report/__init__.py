"""The report of a backtest: one HTML file that decides, made from its results and the data."""
