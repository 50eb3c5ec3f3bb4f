"""Task vectors: what fine-tuning changed, added up in many ways."""
