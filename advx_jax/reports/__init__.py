"""What a person looks at: picture trees, the HTML gallery, curves, JSON, progress on the terminal."""
