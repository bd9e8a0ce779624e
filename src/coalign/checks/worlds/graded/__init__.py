"""A world in which answers have a known quality, for judges that grade them."""
