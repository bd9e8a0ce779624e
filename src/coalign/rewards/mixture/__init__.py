"""Reward models of several categories and capabilities: labels, the phases of their training, their report."""
