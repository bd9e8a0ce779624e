"""Pictures that obey spatial words: captions that say how things stand, mixed fine-tuning, measurement by detection."""
