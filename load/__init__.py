"""Load and failure tools of the checkout: a local Apache Kafka and the benchmarks."""
