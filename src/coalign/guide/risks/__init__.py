"""An evaluation for each risk: questions in public layouts, measures, and two models side by side."""
