"""The engine on NVIDIA GPUs; its torch is an extra and loads only when the engine is chosen."""
