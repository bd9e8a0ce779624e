"""Numbers about pictures, tables and samples of distributions."""
