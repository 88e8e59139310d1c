"""Ready ecosystems: data, world parameters and algorithms."""
