"""Recordings: what Kafka topics held, as Parquet files, and back again."""
