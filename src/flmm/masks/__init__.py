"""From word-image attention to masks: U-Net, SAM refiner, k-means comparison, keyword selector."""
