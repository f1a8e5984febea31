"""Pictures of what a network predicts and of what its pyramid does, as (H, W, 3) uint8 RGB arrays."""
