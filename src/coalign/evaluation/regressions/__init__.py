"""What an update of a model breaks: flips, tasks, training, report."""
