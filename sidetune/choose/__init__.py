"""What is found out before a run: by a look at training images, or by short runs on validation images."""
