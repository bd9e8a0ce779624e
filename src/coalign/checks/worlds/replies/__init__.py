"""The world of classes and replies, plain and with scores."""
