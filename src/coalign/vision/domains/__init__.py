"""Image classifiers over several domains: their blocks, their pictures, and what follows a stream of new ones."""
