"""Model wing: encoders, the tagger and pretrained weights. Knows nothing of neighbours."""
