"""Published weights into ours and ours into other formats."""
