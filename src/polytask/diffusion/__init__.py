"""Diffusion as pure maths on tensors: schedules of noise, the process, samplers and guidance. It knows no network."""
