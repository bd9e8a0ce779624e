"""Long recordings in pieces: windows, alignment, outputs, report."""
