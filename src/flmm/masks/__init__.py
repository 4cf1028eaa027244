"""Masks from word-image attention: U-Net, SAM refiner, K-means baseline, keyword selector."""
