"""Makes a dataset of meshes."""
