"""Files of data: which ones a name stands for, and the values in those of columns."""
