"""Metrics, statistics, judges, tournaments, protocols."""
