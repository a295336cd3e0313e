"""Makes the synthetic shapes, their texts and their teacher."""
