"""World 2: 12 to 16 things a scene, of which a question asks about one to three."""
