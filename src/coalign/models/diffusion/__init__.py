"""Diffusion models: files, losses, schedulers and sampling, on the parts of diffusers."""
