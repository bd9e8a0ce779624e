"""Video of alternating exposures, and the linear radiance behind it."""
