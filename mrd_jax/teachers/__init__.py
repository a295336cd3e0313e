"""Teacher features of images and texts, by CLIP."""
