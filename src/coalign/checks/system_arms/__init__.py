"""Arms of checks that several systems share."""
