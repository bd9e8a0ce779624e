"""Local web pages and servers."""
